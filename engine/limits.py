"""Raise the numbers of candidates and detections per image for images that are larger than those of the training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..detectors.base import Detector

LIMITS = ("detections_per_img", "topk_candidates")  # attributes of RoI heads and of RetinaNet


@contextmanager
def raised_limits(model: Detector, factor: float) -> Iterator[None]:
    """Multiply the most proposals, candidates and detections per image, while detecting.

    A tile that is larger than the training images has more objects than they have, and with the same limits it would
    lose some.

    Args:
        model: its limits are restored at the end.
        factor: at least 1.
    """
    saved: list[tuple[Any, str, Any]] = []
    for part in (model, getattr(model, "roi_heads", None), getattr(model, "rpn", None)):
        for name in LIMITS:
            if hasattr(part, name):
                saved.append((part, name, getattr(part, name)))
                setattr(part, name, round(getattr(part, name) * factor))
        for name in ("_pre_nms_top_n", "_post_nms_top_n"):  # torchvision's RPN: mode -> number
            if isinstance(limits := getattr(part, name, None), dict):
                saved.append((part, name, limits))
                setattr(part, name, {mode: round(limit * factor) for mode, limit in limits.items()})
    try:
        yield
    finally:
        for part, name, value in saved:
            setattr(part, name, value)
