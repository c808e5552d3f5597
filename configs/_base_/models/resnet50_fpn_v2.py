"""The model of torchvision's fasterrcnn_resnet50_fpn_v2 and maskrcnn_resnet50_fpn_v2."""

_base_ = ["resnet50_fpn_sync.py"]

model = dict(rpn=dict(round_anchors=True, post_nms_top_n=(2_000, 1_000)), roi_heads=dict(aligned=False))
