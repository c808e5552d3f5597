"""detectron2's Mask R-CNN from random weights, with group norm in backbone, neck and RoI heads."""

model = dict(
    type="mask_rcnn",
    backbone=dict(type="resnet50", weights=None, norm="group", freeze=0),
    neck=dict(type="fpn", norm="group"),
    roi_heads=dict(box_head_convs=(256, 256, 256, 256), norm="group", sampling_ratio=0),
)
