"""Necks: from the levels of a backbone to a pyramid of equal channels, each with its own `feature_specs`.

A neck is built from the backbone's specs (`build_neck("fpn", backbone.feature_specs)`), never from typed numbers.
"""

from . import fpn  # noqa: F401  (registers every name)
