_base_ = ["_base_/models/resnet50_c4.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
model = dict(type="mask_rcnn")
published = dict(box_ap=36.8, mask_ap=32.2, source="detectron2 MODEL_ZOO.md, Mask R50-C4 1x, short side 640-800")
