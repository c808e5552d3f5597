_base_ = ["_base_/models/resnet50_c4.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
model = dict(type="mask_rcnn")
published = dict(box_ap=39.8, mask_ap=34.4, source="detectron2 MODEL_ZOO.md, Mask R50-C4 3x")
