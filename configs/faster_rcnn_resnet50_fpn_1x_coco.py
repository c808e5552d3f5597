_base_ = ["_base_/models/faster_rcnn_resnet50_fpn.py", "_base_/datasets/coco.py", "_base_/schedules/1x.py"]
