"""ResNet-50 and FPN from random weights, with synchronised batch norm in backbone, neck and RoI heads.

The RPN has two convolutions, and the box head four of them before one fully connected layer.
"""

model = dict(
    backbone=dict(type="resnet50", weights=None, norm="sync", freeze=0),
    neck=dict(type="fpn", norm="sync"),
    rpn=dict(conv_depth=2),
    roi_heads=dict(box_head_convs=(256, 256, 256, 256), norm="sync"),
)
