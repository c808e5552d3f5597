"""torchvision's maskrcnn_resnet50_fpn_v2, with the training that its published weights had. Not trained here.

Padding is grey, (128, 128, 128), and torchvision's is (123, 117, 104).
"""

_base_ = ["_base_/models/resnet50_fpn_v2.py", "_base_/datasets/coco_lsj.py", "_base_/schedules/v2_400ep.py"]

model = dict(type="mask_rcnn")
published = dict(box_ap=47.4, mask_ap=41.8, source="https://github.com/pytorch/vision/pull/5773")
