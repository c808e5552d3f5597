_base_ = ["_base_/models/retinanet_resnet50_fpn.py", "_base_/datasets/coco_jitter.py", "_base_/schedules/3x.py"]
optimizer = dict(lr=0.01)
published = dict(box_ap=38.7, mask_ap=None, source="detectron2 MODEL_ZOO.md, RetinaNet R50 3x")
