_base_ = ["retinanet_resnet50_fpn_1x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=38.5, mask_ap=None, source="mmdet 3.3 metafile, retinanet_r101_fpn_1x")
