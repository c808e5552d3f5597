_base_ = ["mask_rcnn_resnet50_fpn_3x_coco.py"]
model = dict(backbone=dict(type="resnext101_64x4d"))
published = dict(box_ap=44.5, mask_ap=39.7, source="mmdet 3.3 metafile, mask-rcnn_x101-64x4d_fpn_ms-poly-3x")
