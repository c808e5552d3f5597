"""Pretrained weights and their keys.

`sources.py` reads state dicts, `loading.py` loads them into a module and reports what differs, `checkpoints.py` finds
the parts of a model in our own checkpoints, and `torchvision_detectors.py` converts torchvision's detectors.
"""
