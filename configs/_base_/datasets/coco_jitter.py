"""COCO 2017 with the short side drawn from 640 to 800, as in detectron2's 3x schedule."""

_base_ = ["coco.py"]

short_side = [640, 672, 704, 736, 768, 800]
