"""A PNG grid: ground truth beside predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

SHOWN_SCORE = 0.5
MASK_OPACITY = 0.45


def _colour(label: int) -> np.ndarray:
    return hsv_to_rgb(((label * 0.381966) % 1.0, 0.9, 1.0))  # golden ratio: neighbouring labels far apart


def _draw(axes, image: Tensor, objects: dict, names: Sequence[str], title: str) -> None:
    canvas = image.permute(1, 2, 0).numpy() / 255
    for mask, label in zip(objects.get("masks", ()), objects["labels"].tolist()):
        where = mask.numpy()
        canvas[where] = (1 - MASK_OPACITY) * canvas[where] + MASK_OPACITY * _colour(label)
    axes.imshow(canvas)
    scores = objects.get("scores", torch.ones(len(objects["labels"]))).tolist()
    for (x1, y1, x2, y2), label, score in zip(objects["boxes"].tolist(), objects["labels"].tolist(), scores):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.2, edgecolor=_colour(label)))
        text = names[label] + (f" {score:.2f}" if "scores" in objects else "")
        side = "bottom" if y1 > 0.08 * image.shape[1] else "top"  # at the upper edge the label goes inside the box
        axes.text(x1, y1, text, fontsize=6, color="black", va=side, clip_on=True,
                  bbox=dict(facecolor=_colour(label), edgecolor="none", pad=0.6, alpha=0.8))  # fmt: skip
    axes.set_title(title, fontsize=7)
    axes.axis("off")


def save_grid(path: Path, samples: Sequence[tuple[Tensor, dict, dict]], names: Sequence[str], columns: int = 3) -> None:
    """Each sample is (image C x H x W uint8, ground truth, predictions) in pixels of that image.

    Predictions below a score of 0.5 are left out.
    """
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(columns * 2 * 2.2, rows * 2.3), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns * 2, squeeze=False).reshape(-1, 2)
    for pair in axes:
        for axis in pair:
            axis.axis("off")
    for (left, right), (image, truth, predicted) in zip(axes, samples):
        keep = predicted["scores"] >= SHOWN_SCORE
        shown = {key: value[keep] for key, value in predicted.items()}
        _draw(left, image, truth, names, f"image {truth['image_id']}: ground truth")
        _draw(right, image, shown, names, f"predicted (score >= {SHOWN_SCORE})")
    figure.savefig(path)
