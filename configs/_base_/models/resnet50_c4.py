"""ResNet-50 whose C4 feeds the RPN and the RoIs, stage 5 on every RoI. Proposal counts are detectron2's for one level."""

model = dict(
    backbone=dict(type="resnet50", out_features=("c4", "c5"), weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="none"),
    roi_stage="c5",
    rpn_pre_nms_top_n=(12_000, 6_000),
    rpn_post_nms_top_n=(2_000, 1_000),
)
