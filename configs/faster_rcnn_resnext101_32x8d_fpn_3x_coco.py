_base_ = ["faster_rcnn_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnext101_32x8d"))
published = dict(box_ap=43.0, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster X101-32x8d-FPN 3x")
