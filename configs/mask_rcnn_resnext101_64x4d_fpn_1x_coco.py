_base_ = ["mask_rcnn_resnet50_fpn_1x_coco.py"]
model = dict(backbone=dict(type="resnext101_64x4d"))
published = dict(box_ap=42.8, mask_ap=38.4, source="mmdet 3.3 metafile, mask-rcnn_x101-64x4d_fpn_1x")
