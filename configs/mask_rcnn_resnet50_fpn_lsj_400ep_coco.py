"""As mask_rcnn_resnet50_fpn_lsj_100ep_coco, 400 epochs; the warm-up is four times as long too. Not trained here."""

_base_ = ["mask_rcnn_resnet50_fpn_lsj_100ep_coco.py"]

max_iters = 737_500
schedule = dict(warmup_iters=2000, steps=[655_556, 710_184])
eval_every = 40_000
published = dict(box_ap=47.4, mask_ap=42.5)
