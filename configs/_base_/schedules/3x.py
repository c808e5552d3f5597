"""The 3x schedule: 270,000 steps of 16 images, about 37 epochs of COCO (detectron2, MODEL_ZOO.md)."""

_base_ = ["1x.py"]

max_iters = 270_000
schedule = dict(steps=[210_000, 250_000])
eval_every = 30_000
