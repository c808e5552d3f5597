"""Necks: from the levels of a backbone to those that heads work on, each with its own `feature_specs`.

A neck is built from the backbone's specs (`build_neck("fpn", backbone.feature_specs)`), never from typed numbers.
`fpn.py`, `pafpn.py` and `none.py` are the necks, `extra.py` the levels P6 and P7, `layers.py` their convolutions.
"""

from . import fpn, identity, pafpn  # noqa: F401  (registers every name)
