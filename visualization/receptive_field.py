"""Draw the receptive field of a cell, theoretical and effective, and the cells around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from .figures import FONT_SIZE, PLAIN, make_grid, save_figure, to_rgb

Box = tuple[float, float, float, float]

THEORETICAL, EFFECTIVE, CELLS = "#56B4E9", "#F0E442", "#FFFFFF"
NEIGHBOURS = 4  # cells that are drawn on each side
PANEL_WIDTH = 4.6  # inches


@dataclass(frozen=True)
class FieldPanel:
    """A receptive field.

    Attributes:
        title: plain text.
        field: H x W, how strongly the cell depends on a pixel.
        theoretical: x1, y1, x2, y2 of the theoretical window; None if it is not known.
        effective: that of the effective field.
        cell: row and column of the cell.
        stride: pixels between cells.
    """

    title: str
    field: np.ndarray
    theoretical: Box | None
    effective: Box
    cell: tuple[int, int]
    stride: int


def save_receptive_fields(target: Path | BinaryIO, image: Tensor, panels: Sequence[FieldPanel]) -> None:
    """Write a PNG with a panel per field, over the darkened image.

    Bright pixels are those that the cell depends on (the square root of the field), dots are the cells of the map
    around it, squares the theoretical and the effective field.

    Args:
        target: the file.
        image: C x H x W uint8.
        panels: the fields.
    """
    height, width = image.shape[-2:]
    panel_height = PANEL_WIDTH * min(max(height / width, 0.5), 2) + 0.5
    figure, axes = make_grid(1, len(panels), PANEL_WIDTH, panel_height)
    grey = to_rgb(image).mean(-1, keepdims=True) / 255
    for axis, panel in zip(axes.flat, panels):
        strength = np.sqrt(panel.field / max(panel.field.max(), 1e-30))[..., None]
        heat = np.concatenate([np.ones_like(strength), 0.45 + 0.2 * strength, 0.1 + 0 * strength], -1)
        axis.imshow(np.clip((1 - strength) * 0.55 * grey + strength * heat, 0, 1), interpolation="antialiased")
        _draw_cells(axis, panel, (height, width))
        if panel.theoretical is not None:
            _draw_square(axis, panel.theoretical, THEORETICAL, "--", "theoretical", (height, width))
        _draw_square(axis, panel.effective, EFFECTIVE, "-", "effective: 90 % of the squared gradient", (height, width))
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set_title(panel.title, fontsize=FONT_SIZE + 2, **PLAIN)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3,
        fontsize=FONT_SIZE + 1,
        facecolor="0.35",
        labelcolor="white",
    )
    save_figure(figure, target)


def _draw_cells(axis: Any, panel: FieldPanel, size: tuple[int, int]) -> None:
    """Draw dots at the cells around the chosen one."""
    reach = np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    rows, columns = (index * panel.stride + reach * panel.stride for index in panel.cell)
    xs, ys = (grid.flatten() for grid in np.meshgrid(columns, rows))
    inside = (xs >= 0) & (ys >= 0) & (xs < size[1]) & (ys < size[0])
    label = f"cells around it, {2 * NEIGHBOURS + 1} x {2 * NEIGHBOURS + 1}"
    halo = {"edgecolors": "black", "linewidths": 0.4}
    axis.scatter(xs[inside], ys[inside], s=7, color=CELLS, label=label, **halo)
    axis.scatter([panel.cell[1] * panel.stride], [panel.cell[0] * panel.stride], s=26, color=EFFECTIVE, **halo)


def _draw_square(axis: Any, box: Box, colour: str, style: str, label: str, size: tuple[int, int]) -> None:
    """Draw a square; sides outside the image are drawn at its border, where they stay visible."""
    x1, y1 = max(box[0], 0) - 0.5, max(box[1], 0) - 0.5
    x2, y2 = min(box[2], size[1]) - 0.5, min(box[3], size[0]) - 0.5
    rectangle = Rectangle(
        (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=style, linewidth=1.8, label=label
    )
    rectangle.set_path_effects([withStroke(linewidth=3, foreground="black", alpha=0.5)])
    axis.add_patch(rectangle)
