_base_ = ["mask_rcnn_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=42.9, mask_ap=38.6, source="detectron2 MODEL_ZOO.md, Mask R101-FPN 3x")
