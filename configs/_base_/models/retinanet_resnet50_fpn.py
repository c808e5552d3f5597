"""RetinaNet on C3-C5 of ResNet-50: FPN with P6 and P7 by convolution on C5."""

model = dict(
    type="retinanet",
    backbone=dict(type="resnet50", out_features=("c3", "c4", "c5"), weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="fpn", extra_levels="conv_on_input"),
)
