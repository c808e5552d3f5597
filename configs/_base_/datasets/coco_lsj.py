"""COCO 2017 with large-scale jitter (arXiv:2012.07177): scales 0.1 to 2, then a crop or padding to 1024 x 1024."""

_base_ = ["coco.py"]

transforms = [dict(type="LargeScaleJitter"), dict(type="RandomHorizontalFlip")]
