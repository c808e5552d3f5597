"""Necks: convert the backbone's maps to those that heads use. Each neck declares `feature_specs` of its own.

A neck is built from the backbone's specs (`build_neck("fpn", backbone.feature_specs)`), never from typed numbers.
`base.py` is the contract; `fpn.py`, `pafpn.py` and `identity.py` are the necks; `extra_levels.py` appends P6 and P7.
"""
