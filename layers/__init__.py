"""Layers that backbones, necks and heads share.

`conv.py` and `norm.py` build layers, `fold.py` and `fuse.py` fold norms into convolutions, `winograd.py` and
`winograd_conv.py` speed up 3x3 convolutions on the CPU, `roi_align.py` and `mask_ops.py` work on RoIs and masks.
"""
