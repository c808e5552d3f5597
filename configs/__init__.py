"""Ready configs, `<detector>_<backbone>_<neck>_<schedule>_<dataset>.py`; `_base_` holds their parts.

In the neck's place stand "fpn", or "c4" and "dc5" for heads on that one level. `published` is what the field reports
for such a model, the short side drawn from 640 to 800 for 3x; numbers of detectron2 start from MSRA's weights with the
stride in the 1x1 convolution, ours and mmdetection's from torchvision's. Everything else is `backbone=...` on one of
these.
"""
