_base_ = ["_base_/models/resnet50_fpn.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
model = dict(type="mask_rcnn")
published = dict(box_ap=41.0, mask_ap=37.2, source="detectron2 MODEL_ZOO.md, Mask R50-FPN 3x")
