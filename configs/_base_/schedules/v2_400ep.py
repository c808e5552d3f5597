"""torchvision's 400 epochs of 1,832 steps of 64 images, without images that have no object (its pull request 5763)."""

max_iters = 732_800
batch_size = 64
reference_batch_size = 64
optimizer = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=4e-5)
schedule = dict(warmup_iters=1000, warmup_factor=0.001, steps=[644_864, 703_488], gamma=0.1)
eval_every = 50_000
checkpoint_every = 5_000
