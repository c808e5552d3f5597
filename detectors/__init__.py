"""Detectors: torchvision's RPN, RoI and RetinaNet heads on features whose geometry is declared.

`base.py` is what all detectors share. `rcnn.py` composes Faster and Mask R-CNN of a backbone, a neck, `rpn.py` and RoI
heads (`roi_heads.py`, or `stage_roi_heads.py` for C4); `retinanet.py` is RetinaNet. `anchors.py` and `roi_pooler.py`
read strides and levels from FeatureSpecs.
"""
