"""detectron2's 184,375 steps of 64 images, about 100 epochs of COCO (configs/new_baselines)."""

max_iters = 184_375
batch_size = 64
reference_batch_size = 64
optimizer = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=4e-5)
norm_decay = 0.0
schedule = dict(warmup_iters=500, warmup_factor=0.067, steps=[163_889, 177_546], gamma=0.1)
precision = "fp16"
eval_every = 10_000
checkpoint_every = 5_000
