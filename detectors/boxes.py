"""Decoding of box deltas (arXiv:1311.2524, appendix C)."""

from collections.abc import Sequence

from torchvision.models.detection._utils import BoxCoder

from ..errors import InputError


def box_coder(weights: Sequence[float]) -> BoxCoder:
    """Return torchvision's coder of boxes.

    Args:
        weights: the deltas (dx, dy, dw, dh) are multiplied by these before they are predicted (detectron2's
            BBOX_REG_WEIGHTS, the inverse of mmdetection's target_stds).

    Raises:
        InputError: these are not four numbers above 0.
    """
    if len(weights) != 4 or min(weights) <= 0:
        raise InputError(f"bbox_reg_weights must be four numbers above 0, got {tuple(weights)}")
    wx, wy, ww, wh = map(float, weights)
    return BoxCoder((wx, wy, ww, wh))
