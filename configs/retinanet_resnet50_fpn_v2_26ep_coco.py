"""torchvision's retinanet_resnet50_fpn_v2, with the training that its published weights had. Not trained here.

Stem and C2 are fixed, and so are the statistics of their norms, which torchvision updates. An epoch has 7,329 steps.
"""

_base_ = ["_base_/models/retinanet_resnet50_fpn.py", "_base_/datasets/coco.py"]

model = dict(
    backbone=dict(weights="torchvision:IMAGENET1K_V2", norm="sync"),
    head_norm="group",
    box_loss="giou",
    round_anchors=True,
    detections_per_img=300,
)
short_side = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
max_iters = 190_554
batch_size = 16
reference_batch_size = 16
optimizer = dict(type="AdamW", lr=1e-4, weight_decay=0.05)
norm_decay = 0.0
schedule = dict(warmup_iters=1000, warmup_factor=0.001, steps=[117_264, 161_238], gamma=0.1)
eval_every = 20_000
checkpoint_every = 5_000
published = dict(box_ap=41.5, mask_ap=None, source="https://github.com/pytorch/vision/pull/5756")
