"""RetinaNet on C5 at stride 16, projected to the width of the head by a pyramid of one level."""

model = dict(
    type="retinanet",
    backbone=dict(type="resnet50_dc5", out_features=("c5",), weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="fpn", extra_levels="none"),
)
