"""ResNet-50 with C5 at stride 16, which feeds the RPN and the RoIs. Proposals as in detectron2 for one level."""

model = dict(
    backbone=dict(type="resnet50_dc5", out_features=("c5",), weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="identity"),
    rpn=dict(pre_nms_top_n=(12_000, 6_000), post_nms_top_n=(2_000, 1_000)),
)
