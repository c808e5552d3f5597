_base_ = ["_base_/models/resnet50_dc5.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
model = dict(type="faster_rcnn")
published = dict(box_ap=39.0, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster R50-DC5 3x")
