_base_ = ["mask_rcnn_resnet50_fpn_1x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=40.0, mask_ap=36.1, source="mmdet 3.3 metafile, mask-rcnn_r101_fpn_1x")
