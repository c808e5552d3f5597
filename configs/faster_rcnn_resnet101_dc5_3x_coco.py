_base_ = ["faster_rcnn_resnet50_dc5_3x_coco.py"]
model = dict(backbone=dict(type="resnet101_dc5"))
published = dict(box_ap=40.6, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster R101-DC5 3x")
