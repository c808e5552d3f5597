_base_ = ["_base_/models/resnet50_fpn.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
model = dict(type="mask_rcnn")
published = dict(box_ap=38.2, mask_ap=34.7, source="mmdet 3.3 metafile, mask-rcnn_r50_fpn_1x")
