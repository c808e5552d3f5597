_base_ = ["_base_/models/resnet50_fpn.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
model = dict(type="faster_rcnn")
published = dict(box_ap=37.4, mask_ap=None, source="mmdet 3.3 metafile, faster-rcnn_r50_fpn_1x")
