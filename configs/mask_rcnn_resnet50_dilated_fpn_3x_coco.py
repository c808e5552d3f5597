_base_ = ["_base_/models/resnet50_fpn.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
model = dict(type="mask_rcnn", backbone=dict(type="resnet50_dilated"))
published = dict(box_ap=None, mask_ap=None, source="no published number known")
