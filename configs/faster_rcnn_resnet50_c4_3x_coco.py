_base_ = ["_base_/models/resnet50_c4.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
model = dict(type="faster_rcnn")
published = dict(box_ap=38.4, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster R50-C4 3x")
