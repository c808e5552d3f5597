"""Backbones: networks that turn images into the features C1-C5 and declare the geometry of each.

`base.py` is their contract. `stage_plan.py` decides the geometry of a ResNet, `weight_settings.py` what its pretrained
weights settle; `resnet.py` builds it from `blocks.py`, `stem.py` and `shortcuts.py`; `variants.py` names it.
`timm_backbone.py` wraps timm's networks, `preprocess.py` normalises images, `describe.py` and `verify.py` show what a
backbone is. Names are registered on first use, so importing this package loads nothing.
"""
