"""Draw ground truth and predictions side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.patches import Rectangle
from torch import Tensor

from ..errors import shorten
from .figures import FONT_SIZE, PLAIN, make_grid, save_figure, to_rgb

MIN_SCORE = 0.5
MASK_OPACITY = 0.45
NAME_LENGTH = 24  # characters


def save_grid(path: Path, samples: Sequence[tuple[Tensor, dict, dict]], names: Sequence[str], columns: int = 3) -> None:
    """Write a PNG with ground truth and predictions side by side.

    Args:
        path: the PNG file.
        samples: (image C x H x W uint8, ground truth, predictions), the last two with "boxes" N x 4 xyxy, "labels" N,
            and perhaps "masks" N x H x W bool, in pixels of that image. The ground truth has an "image_id", predictions
            have "scores" N; those below 0.5 are left out.
        names: name per label.
        columns: samples per row.
    """
    rows = -(-len(samples) // columns)
    figure, axes = make_grid(rows, 2 * columns, width=2.2, height=2.3)
    for (left, right), (image, truth, predicted) in zip(axes.reshape(-1, 2), samples):
        keep = predicted["scores"] >= MIN_SCORE
        confident = {key: value[keep] for key, value in predicted.items()}
        _draw_objects(left, image, truth, names, f"image {shorten(truth['image_id'], NAME_LENGTH)}: ground truth")
        found = "predicted" if keep.any() else "nothing predicted"
        _draw_objects(right, image, confident, names, f"{found} (score >= {MIN_SCORE})")
    save_figure(figure, path)


def _draw_objects(axis: Any, image: Tensor, objects: Mapping, names: Sequence[str], title: str) -> None:
    labels = objects["labels"].tolist()
    axis.imshow(_blend_masks(image, objects.get("masks", ()), labels))
    scores = objects["scores"].tolist() if "scores" in objects else [None] * len(labels)
    for (x1, y1, x2, y2), label, score in zip(objects["boxes"].tolist(), labels, scores, strict=True):
        colour = _colour(label)
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.2, edgecolor=colour))
        near_top = y1 <= 0.08 * image.shape[1]
        axis.text(
            x1,
            y1,
            shorten(names[label], NAME_LENGTH) + ("" if score is None else f" {score:.2f}"),
            fontsize=FONT_SIZE - 1,
            va="top" if near_top else "bottom",  # inside the box if there is no room above it
            clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            **PLAIN,
        )
    axis.set_title(title, fontsize=FONT_SIZE, **PLAIN)


def _blend_masks(image: Tensor, masks: Sequence[Tensor] | Tensor, labels: Sequence[int]) -> np.ndarray:
    pixels = to_rgb(image) / 255
    for mask, label in zip(masks, labels):
        inside = mask.numpy()
        pixels[inside] = (1 - MASK_OPACITY) * pixels[inside] + MASK_OPACITY * _colour(label)
    return pixels


def _colour(label: int) -> np.ndarray:
    return hsv_to_rgb((label * 0.381966 % 1.0, 0.9, 1.0))  # golden ratio: the hues of neighbours are far apart
