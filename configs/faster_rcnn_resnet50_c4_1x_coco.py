_base_ = ["_base_/models/resnet50_c4.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
model = dict(type="faster_rcnn")
published = dict(box_ap=35.7, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster R50-C4 1x, short side 640-800")
