"""The 1x schedule: 90,000 steps of 16 images, about 12 epochs of COCO (detectron2, MODEL_ZOO.md)."""

max_iters = 90_000
batch_size = 16
reference_batch_size = 16
optimizer = dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4)
schedule = dict(warmup_iters=1000, warmup_factor=0.001, steps=[60_000, 80_000], gamma=0.1)
eval_every = 10_000
checkpoint_every = 5_000
