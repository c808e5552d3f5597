_base_ = ["faster_rcnn_resnet50_c4_3x_coco.py"]
model = dict(backbone=dict(type="resnet101"))
published = dict(box_ap=41.1, mask_ap=None, source="detectron2 MODEL_ZOO.md, Faster R101-C4 3x")
