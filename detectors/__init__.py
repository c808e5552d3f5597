"""Detectors: torchvision's RPN, RoI and RetinaNet heads on features whose geometry is declared.

`anchors.py` and `pooler.py` read strides and levels from `FeatureSpec`s, `detector.py` is what all detectors share
(batching, targets, mapping back), `rcnn.py` is Faster and Mask R-CNN, `retinanet.py` RetinaNet, `published.py` how
torchvision's published detection weights load.
"""

from . import rcnn, retinanet  # noqa: F401  (registers every name)
