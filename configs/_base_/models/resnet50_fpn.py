"""ResNet-50 and FPN: every width and count that is not set here is the constructor's default."""

model = dict(backbone=dict(type="resnet50", weights="torchvision:IMAGENET1K_V1"), neck=dict(type="fpn"))
