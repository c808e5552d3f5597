_base_ = ["retinanet_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=40.4, mask_ap=None, source="detectron2 MODEL_ZOO.md, RetinaNet R101 3x")
