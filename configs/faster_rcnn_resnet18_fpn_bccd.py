"""Data of one's own: a Faster R-CNN from random weights on blood cells in Pascal VOC files, minutes on two CPU cores.

The data is https://github.com/Shenggan/BCCD_Dataset (its folder BCCD): 364 images of 640 x 480 pixels.
"""

_base_ = ["_base_/models/resnet50_fpn.py"]

model = dict(
    type="faster_rcnn",
    backbone=dict(type="resnet18", weights=None, out_features=("c2", "c3", "c4")),
    neck=dict(out_channels=64, norm="batch"),
    rpn=dict(pre_nms_top_n=(400, 200), post_nms_top_n=(300, 150), batch_size_per_image=128),
    roi_heads=dict(box_head_dim=256, batch_size_per_image=128),
)
data_root = "data/bccd"
train = dict(ann_file="ImageSets/Main/train.txt", format="voc")
val = dict(ann_file="ImageSets/Main/val.txt", format="voc")
drop_bad_objects = True  # two boxes have equal corners
short_side = [216, 240, 264]
long_side = None
batch_size = 4
reference_batch_size = 4
max_iters = 1000
eval_every = 200
optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.05)
schedule = dict(warmup_iters=50, warmup_factor=0.01, cosine=True)
clip_grad_norm = 5.0
