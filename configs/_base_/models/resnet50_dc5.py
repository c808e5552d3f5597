"""ResNet-50 whose C5 keeps stride 16; RPN and RoI heads work on it alone. Proposal counts are detectron2's for one level."""

model = dict(
    backbone=dict(type="resnet50_dc5", out_features=("c5",), weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="none"),
    rpn_pre_nms_top_n=(12_000, 6_000),
    rpn_post_nms_top_n=(2_000, 1_000),
)
