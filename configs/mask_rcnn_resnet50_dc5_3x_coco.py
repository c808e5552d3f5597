_base_ = ["_base_/models/resnet50_dc5.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
model = dict(type="mask_rcnn")
published = dict(box_ap=40.0, mask_ap=35.9, source="detectron2 MODEL_ZOO.md, Mask R50-DC5 3x")
