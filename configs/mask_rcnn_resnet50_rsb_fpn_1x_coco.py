"""mmdetection's Mask R-CNN from the weights of "ResNet strikes back" (arXiv:2110.00476), 12 epochs. Not trained here.

The ImageNet weights are timm's; mmdetection has those of mmclassification, trained by the same procedure. Norms of the
backbone are constants; mmdetection trains their weights and biases.
"""

_base_ = ["_base_/models/resnet50_fpn_rsb.py", "_base_/datasets/coco.py", "_base_/schedules/rsb_1x.py"]

model = dict(type="mask_rcnn")
published = dict(
    box_ap=41.2, mask_ap=38.2, source="https://github.com/open-mmlab/mmdetection/tree/main/configs/resnet_strikes_back"
)
