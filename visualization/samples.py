"""Draw training samples with their objects as the network sees them."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

from torch import Tensor

from ..errors import shorten
from .figures import make_grid, save_figure
from .objects import NAME_LENGTH, draw_objects

PANEL_WIDTH = 2.6  # inches
COLUMNS = 4


def save_samples(
    target: Path | BinaryIO, samples: Sequence[tuple[Tensor, dict[str, Any]]], names: Sequence[str]
) -> None:
    """Write a PNG sheet of samples, coloured by class.

    Args:
        target: the file.
        samples: (image C x H x W uint8, target with "boxes" N x 4 xyxy, "labels" N, "image_id" and perhaps "masks"
            N x H x W bool).
        names: name per label.
    """
    columns = min(COLUMNS, len(samples))
    aspect = median(image.shape[-2] / image.shape[-1] for image, _ in samples)
    height = PANEL_WIDTH * min(max(aspect, 0.5), 2) + 0.25
    figure, axes = make_grid(-(-len(samples) // columns), columns, PANEL_WIDTH, height)
    for axis, (image, objects) in zip(axes.flat, samples):
        title = f"{shorten(objects['image_id'], NAME_LENGTH)}: {image.shape[-1]} x {image.shape[-2]}"
        draw_objects(axis, image, objects, names, title)
    save_figure(figure, target)
