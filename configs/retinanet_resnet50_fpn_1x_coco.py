_base_ = ["_base_/models/retinanet_resnet50_fpn.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
optimizer = dict(lr=0.01)
published = dict(box_ap=36.5, mask_ap=None, source="mmdet 3.3 metafile, retinanet_r50_fpn_1x")
