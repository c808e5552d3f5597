"""Pretrained weights and their keys.

`sources.py` reads state dicts, `loading.py` loads them into a module and reports what differs, and
`torchvision_detectors.py` converts the keys of torchvision's detectors.
"""
