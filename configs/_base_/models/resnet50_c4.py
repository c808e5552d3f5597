"""ResNet-50 whose C4 feeds the RPN and, through stage 5, every RoI. Proposals as in detectron2 for one level."""

model = dict(
    backbone=dict(type="resnet50", out_features=("c4", "c5"), weights="torchvision:IMAGENET1K_V1"),
    neck=dict(type="identity"),
    rpn=dict(pre_nms_top_n=(12_000, 6_000), post_nms_top_n=(2_000, 1_000)),
    roi_heads=dict(type="stage", stage="c5"),
)
