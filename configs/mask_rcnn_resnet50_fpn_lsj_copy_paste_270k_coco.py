"""Mask R-CNN with large-scale jitter and copy-paste (arXiv:2012.07177), from random weights. Not trained here.

The settings are tensorflow/tpu's, whose model is not the same: the RPN and the fully connected layers have batch norm
too, the box head has two of these layers, every norm has an epsilon of 1e-4, and running statistics have a momentum of
0.003. There, a uniformly drawn number of objects is pasted, and here a mean of 63 % of them.
"""

_base_ = ["_base_/models/resnet50_fpn_sync.py", "_base_/datasets/coco_lsj.py"]

model = dict(type="mask_rcnn", backbone=dict(norm_eps=1e-4))
transforms = [dict(type="LargeScaleJitter"), dict(type="RandomHorizontalFlip"), dict(type="BoxesFromMasks")]
copy_paste = 1.0
short_side = 1024  # of validation
long_side = 1024
max_iters = 270_000
batch_size = 256
reference_batch_size = 256
optimizer = dict(type="SGD", lr=0.32, momentum=0.9, weight_decay=4e-5)
norm_decay = 0.0
bias_decay = 0.0
schedule = dict(warmup_iters=1000, warmup_factor=0.01, steps=[243_000, 256_500, 263_250], gamma=0.1)
precision = "bf16"
eval_every = 20_000
checkpoint_every = 5_000
published = dict(
    box_ap=48.3,
    mask_ap=42.4,
    source="https://github.com/tensorflow/tpu/tree/master/models/official/detection/projects/copy_paste",
)
