"""detectron2's Mask R-CNN with group norm, from random weights (arXiv:1811.08883), 9x. Not trained here."""

_base_ = ["mask_rcnn_resnet50_fpn_gn_scratch_3x_coco.py"]

max_iters = 202_500
batch_size = 64
reference_batch_size = 64
optimizer = dict(lr=0.08)
schedule = dict(steps=[187_500, 197_500])
eval_every = 20_000
published = dict(box_ap=43.7, mask_ap=39.6)
