"""As mask_rcnn_resnet50_fpn_lsj_100ep_coco, 200 epochs; the warm-up is twice as long too. Not trained here."""

_base_ = ["mask_rcnn_resnet50_fpn_lsj_100ep_coco.py"]

max_iters = 368_750
schedule = dict(warmup_iters=1000, steps=[327_778, 355_092])
eval_every = 20_000
published = dict(box_ap=46.3, mask_ap=41.7)
