"""The first run: a narrow Mask R-CNN from random weights on the embedded dataset, minutes on two CPU cores."""

_base_ = ["_base_/models/resnet50_fpn.py"]

model = dict(
    type="mask_rcnn",
    backbone=dict(type="resnet18", weights=None, out_features=("c2", "c3", "c4")),  # c5 of a 128 px image: 4 x 4 cells
    neck=dict(out_channels=64),
    rpn=dict(anchor_scale=4.0, pre_nms_top_n=(400, 200), post_nms_top_n=(200, 100), batch_size_per_image=64),
    roi_heads=dict(box_head_dim=256, batch_size_per_image=64, mask_channels=(64, 64), mask_dim=64),
)
data_root = "embedded:shapes"
train = dict(ann_file="instances_train.json", image_dir="images")
val = dict(ann_file="instances_val.json", image_dir="images")
short_side = None
long_side = None
batch_size = 8
reference_batch_size = 8
max_iters = 500
optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.01)
schedule = dict(warmup_iters=40, warmup_factor=0.01, cosine=True)
clip_grad_norm = 5.0
