"""Ready configs, `<detector>_<backbone>_<neck>_<schedule>_<dataset>.py`; `_base_` holds their parts.

In place of the neck, "c4" and "dc5" stand for heads on that one level. `published` is what others report for such a
model, with the short side drawn from 640 to 800 for 3x. detectron2's numbers start from MSRA's weights with the stride
in the 1x1 convolution; these configs and mmdetection's start from torchvision's. For other backbones, set
`backbone=...` on one of these.

Recipes have more words before the schedule: "v2" (torchvision's improved training), "rsb" (weights of "ResNet strikes
back"), "lsj" (large-scale jitter), "gn" (group norm), "scratch" (random weights). Their docstrings say what differs
from the source. Box losses of R-CNN are torchvision's smooth L1 with beta 1/9; detectron2 and mmdetection have L1.
"""
