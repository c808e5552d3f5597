_base_ = ["mask_rcnn_resnet50_dc5_3x_coco.py"]
model = dict(backbone=dict(type="resnet101_dc5"))
published = dict(box_ap=41.9, mask_ap=37.3, source="detectron2 MODEL_ZOO.md, Mask R101-DC5 3x")
