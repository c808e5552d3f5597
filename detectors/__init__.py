"""Detectors: a backbone and a neck with torchvision's RPN, RoI and RetinaNet heads.

`base.py` is what all detectors share. `rcnn.py` composes Faster and Mask R-CNN of a backbone, a neck, `rpn.py` and RoI
heads (`roi_heads.py`, or `stage_roi_heads.py` for C4); `retinanet.py` is RetinaNet. `anchors.py` and `roi_pooler.py`
read strides and levels from FeatureSpecs.
"""
