"""Draw stride and dilation: the cells of every level over the image, and the taps of a 3 x 3 convolution on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.patches import Rectangle
from torch import Tensor

from ..specs import FeatureSpec
from .figures import FONT_SIZE, PLAIN, make_grid, save_figure, to_rgb

PANEL_WIDTH = 2.5  # inches
TAP, CENTRE = "#D55E00", "#0072B2"
MIN_STEP = 0.008  # of the window's side; closer lines are a grey area


def save_levels(
    target: Path | BinaryIO,
    image: Tensor,
    rows: Sequence[tuple[str, Sequence[FeatureSpec]]],
    place: tuple[float, float],
) -> None:
    """Write a PNG with a row per backbone and a panel per level.

    Lines are the borders of cells, a cell is marked, and so are the nine cells that a 3 x 3 convolution of that level
    reads around it.

    Args:
        target: the file.
        image: C x H x W uint8.
        rows: title, and the levels.
        place: x, y in the marked cell.
    """
    height, width = image.shape[-2:]
    columns = max(len(specs) for _, specs in rows)
    aspect = min(max(height / width, 0.5), 2)
    figure, axes = make_grid(len(rows), columns, PANEL_WIDTH, PANEL_WIDTH * aspect + 0.4)
    pixels = 0.45 + 0.55 * to_rgb(image) / 255
    for axis_row, (title, specs) in zip(axes, rows):
        for axis, spec in zip(axis_row, specs):
            axis.imshow(pixels, extent=(0, width, height, 0))
            _draw_cells(axis, spec, (height, width))
            _draw_taps(axis, spec, place)
            axis.set(xlim=(0, width), ylim=(height, 0))
            cells = f"{-(-width // spec.stride)} x {-(-height // spec.stride)} cells"
            text = f"{title} {spec.name}: {cells}\nstride {spec.stride}, dilation {spec.dilation}"
            axis.set_title(text, fontsize=FONT_SIZE, **PLAIN)
    save_figure(figure, target)


def _draw_cells(axis: Any, spec: FeatureSpec, size: tuple[int, int]) -> None:
    if spec.stride < MIN_STEP * max(size):
        return
    style = {"color": "black", "linewidth": 0.35, "alpha": 0.7}
    axis.hlines(np.arange(0, size[0] + 1, spec.stride), 0, size[1], **style)
    axis.vlines(np.arange(0, size[1] + 1, spec.stride), 0, size[0], **style)


def _draw_taps(axis: Any, spec: FeatureSpec, place: tuple[float, float]) -> None:
    column, row = (int(share // spec.stride) for share in place)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            x, y = (column + dx * spec.dilation) * spec.stride, (row + dy * spec.dilation) * spec.stride
            colour = TAP if dx or dy else CENTRE
            axis.add_patch(
                Rectangle((x, y), spec.stride, spec.stride, facecolor=colour, edgecolor="white", linewidth=0.3)
            )
