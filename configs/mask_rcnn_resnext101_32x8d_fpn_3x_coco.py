_base_ = ["mask_rcnn_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnext101_32x8d"))
published = dict(box_ap=44.3, mask_ap=39.5, source="detectron2 MODEL_ZOO.md, Mask X101-FPN 3x")
