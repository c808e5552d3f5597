"""Detectors: torchvision's RPN and RoI heads on features whose geometry is declared.

`anchors.py` and `pooler.py` read strides and levels from `FeatureSpec`s, `rcnn.py` is Faster and Mask R-CNN.
"""

from . import rcnn  # noqa: F401  (registers every name)
