"""mmdetection's 12 epochs of 7,330 steps with AdamW (configs/resnet_strikes_back)."""

max_iters = 87_960
batch_size = 16
reference_batch_size = 16
optimizer = dict(type="AdamW", lr=2e-4, weight_decay=0.05)
norm_decay = 0.0
schedule = dict(warmup_iters=500, warmup_factor=0.001, steps=[58_640, 80_630], gamma=0.1)
eval_every = 10_000
checkpoint_every = 5_000
