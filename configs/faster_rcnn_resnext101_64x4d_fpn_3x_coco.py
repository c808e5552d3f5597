_base_ = ["faster_rcnn_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnext101_64x4d"))
published = dict(box_ap=42.5, mask_ap=None, source="mmdet 3.3 metafile, faster-rcnn_x101-64x4d_fpn_ms-3x")
