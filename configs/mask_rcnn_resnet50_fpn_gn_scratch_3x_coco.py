"""detectron2's Mask R-CNN with group norm, from random weights (arXiv:1811.08883), 3x. Not trained here.

Images are divided by ImageNet's standard deviation; detectron2 does not divide them, and notes that the
results are the same.
"""

_base_ = ["_base_/models/resnet50_fpn_gn.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]

norm_decay = 0.0
published = dict(
    box_ap=39.9, mask_ap=36.6, source="https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
)
