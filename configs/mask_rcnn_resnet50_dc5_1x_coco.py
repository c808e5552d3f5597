_base_ = ["_base_/models/resnet50_dc5.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
model = dict(type="mask_rcnn")
published = dict(box_ap=38.3, mask_ap=34.2, source="detectron2 MODEL_ZOO.md, Mask R50-DC5 1x, short side 640-800")
