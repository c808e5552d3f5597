_base_ = ["faster_rcnn_resnet50_fpn_1x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=39.4, mask_ap=None, source="mmdet 3.3 metafile, faster-rcnn_r101_fpn_1x")
