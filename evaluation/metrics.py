"""Average COCO's and LVIS's metrics over the precision and recall arrays of a `COCOeval`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SIZES = "sml"  # small, medium, large: the second to fourth of pycocotools' area ranges, the first is all
FREQUENCIES = "rcf"  # LVIS: categories in 1 to 10, 11 to 100, and more than 100 training images
IOU_50, IOU_75 = 0, 5  # places in pycocotools' IoU thresholds 0.5, 0.55, ..., 0.95
DIGITS = 12  # pycocotools adds 2e-16 to every denominator: without rounding, perfect detections miss 1.0 by it


def detection_limits(max_dets: int, is_lvis: bool = False) -> list[int]:
    """Return the numbers of detections per class and image at which recall is computed, the last one `max_dets`."""
    return [max_dets] if is_lvis else [*(limit for limit in (1, 10) if limit < max_dets), max_dets]


def metric_names(max_dets: int = 100, is_lvis: bool = False) -> tuple[str, ...]:
    """Return the names of the metrics in pycocotools' order."""
    precision = ["AP", "AP50", "AP75", *(f"AP{size}" for size in SIZES)]
    precision += [f"AP{frequency}" for frequency in FREQUENCIES if is_lvis]
    recall = [f"AR{limit}" for limit in detection_limits(max_dets, is_lvis)]
    return (*precision, *recall, *(f"AR{size}" for size in SIZES))


def summarize(arrays: Mapping[str, Any], max_dets: int, frequencies: Sequence[str] | None) -> dict[str, float]:
    """Return the metrics by name; -1 without an object of that size or frequency.

    pycocotools' own `summarize` gives -1 as AP if `max_dets` is not 100.

    Args:
        arrays: attribute `eval` of a `COCOeval` that has accumulated: "precision" (IoU x recall x category x area x
            limit) and "recall" (IoU x category x area x limit).
        max_dets: the last of the limits.
        frequencies: LVIS's "r", "c" or "f" per category; None: not LVIS.
    """
    precision, recall = arrays["precision"][..., -1], arrays["recall"]
    parts = [precision[..., 0], precision[IOU_50, ..., 0], precision[IOU_75, ..., 0]]
    parts += [precision[..., area] for area in (1, 2, 3)]
    if frequencies is not None:
        parts += [precision[:, :, np.array(frequencies) == frequency, 0] for frequency in FREQUENCIES]
    parts += [recall[:, :, 0, limit] for limit in range(recall.shape[-1])]
    parts += [recall[:, :, area, -1] for area in (1, 2, 3)]
    names = metric_names(max_dets, frequencies is not None)
    return {name: mean(part) for name, part in zip(names, parts, strict=True)}


def mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not -1, which marks categories without objects; -1 if there are none."""
    present = values[values > -1]
    return round(float(present.mean()), DIGITS) if present.size else -1.0
