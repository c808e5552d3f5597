"""detectron2's Mask R-CNN with large-scale jitter, from random weights, 100 epochs. Not trained here.

Images are divided by ImageNet's standard deviation; detectron2 does not divide them, and compresses the
gradients that GPUs exchange to fp16.
"""

_base_ = ["_base_/models/resnet50_fpn_sync.py", "_base_/datasets/coco_lsj.py", "_base_/schedules/lsj_100ep.py"]

model = dict(type="mask_rcnn", backbone=dict(stride_in_1x1=True), roi_heads=dict(sampling_ratio=0))
transforms = [dict(type="LargeScaleJitter"), dict(type="RandomHorizontalFlip"), dict(type="BoxesFromMasks")]
published = dict(
    box_ap=44.6, mask_ap=40.3, source="https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
)
