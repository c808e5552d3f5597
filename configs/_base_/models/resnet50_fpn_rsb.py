"""ResNet-50 and FPN from the weights A1 of "ResNet strikes back" (arXiv:2110.00476), which timm downloads."""

model = dict(
    backbone=dict(type="timm:resnet50", weights="timm:a1_in1k"),
    neck=dict(type="fpn"),
    roi_heads=dict(sampling_ratio=0),
)
