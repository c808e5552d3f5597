"""torchvision's fasterrcnn_resnet50_fpn_v2, with the training that its published weights had. Not trained here.

Padding is grey, (128, 128, 128), and torchvision's is (123, 117, 104).
"""

_base_ = ["_base_/models/resnet50_fpn_v2.py", "_base_/datasets/coco_lsj.py", "_base_/schedules/v2_400ep.py"]

model = dict(type="faster_rcnn")
published = dict(box_ap=46.7, mask_ap=None, source="https://github.com/pytorch/vision/pull/5763")
