_base_ = ["mask_rcnn_resnet50_c4_3x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=42.6, mask_ap=36.7, source="detectron2 MODEL_ZOO.md, Mask R101-C4 3x")
