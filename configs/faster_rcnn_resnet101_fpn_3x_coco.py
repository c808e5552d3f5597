_base_ = ["faster_rcnn_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=42.0, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster R101-FPN 3x")
