"""Faster R-CNN, ResNet-50, FPN: every width and count that is not named here is the constructor's default."""

model = dict(
    type="faster_rcnn",
    backbone=dict(type="resnet50", weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="fpn"),
)
