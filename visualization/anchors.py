"""Draw the anchors of a cell per level, and the cells of the level."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from .figures import FONT_SIZE, PLAIN, make_grid, save_figure, to_rgb
from .objects import PALETTE

PANEL_WIDTH = 2.6  # inches
WINDOW = 1.15  # half of the side that a panel shows, times the reach of the anchors
MAX_CELLS = 160  # per side of a panel
SHAPE_COLOURS = [PALETTE[index] for index in (5, 6, 2, 1, 4)]


@dataclass(frozen=True)
class AnchorPanel:
    """The anchors of a cell of one level.

    Attributes:
        name: of the level.
        stride: pixels between cells.
        centre: x, y of the cell.
        anchors: N x 4 xyxy.
    """

    name: str
    stride: int
    centre: tuple[float, float]
    anchors: np.ndarray


def save_anchors(target: Path | BinaryIO, image: Tensor, rows: Sequence[tuple[str, Sequence[AnchorPanel]]]) -> None:
    """Write a PNG with a row per detector and a panel per level, which shows the image around the cell.

    Dots are centres of cells. Anchors of one shape have one colour.

    Args:
        target: the file.
        image: C x H x W uint8, as the detector gets it.
        rows: title and panels.
    """
    columns = max(len(panels) for _, panels in rows)
    figure, axes = make_grid(len(rows), columns, PANEL_WIDTH, PANEL_WIDTH + 0.45)
    pixels = 0.5 + 0.5 * to_rgb(image) / 255  # pale, so that thin lines stand out
    for axis_row, (title, panels) in zip(axes, rows):
        for axis, panel in zip(axis_row, panels):
            axis.imshow(pixels)
            reach = WINDOW * np.abs(panel.anchors - np.tile(panel.centre, 2)).max()
            _draw_cells(axis, panel, (image.shape[-2], image.shape[-1]), reach)
            _draw_anchors(axis, panel.anchors)
            x, y = panel.centre
            axis.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
            counts = f"{len(panel.anchors)} anchors of {_sizes(panel.anchors)} px"
            axis.set_title(f"{title} {panel.name}: stride {panel.stride}\n{counts}", fontsize=FONT_SIZE, **PLAIN)
    save_figure(figure, target)


def _draw_anchors(axis: Any, anchors: np.ndarray) -> None:
    ratios = np.round((anchors[:, 3] - anchors[:, 1]) / (anchors[:, 2] - anchors[:, 0]), 1).tolist()
    shapes = sorted(set(ratios))
    for (x1, y1, x2, y2), ratio in zip(anchors.tolist(), ratios):
        colour = SHAPE_COLOURS[shapes.index(ratio) % len(SHAPE_COLOURS)]
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.4)
        box.set_path_effects([withStroke(linewidth=2.4, foreground="white", alpha=0.6)])
        axis.add_patch(box)


def _draw_cells(axis: Any, panel: AnchorPanel, size: tuple[int, int], reach: float) -> None:
    """Draw the cells of the image around the chosen one, unless they are too many."""
    x, y = panel.centre
    xs = np.arange(0, size[1], panel.stride)
    ys = np.arange(0, size[0], panel.stride)
    xs, ys = xs[np.abs(xs - x) <= reach], ys[np.abs(ys - y) <= reach]
    if max(len(xs), len(ys)) <= MAX_CELLS:
        grid_x, grid_y = np.meshgrid(xs, ys)
        axis.scatter(grid_x, grid_y, s=1.2, color="black")
    axis.scatter([x], [y], s=16, color="black")


def _sizes(anchors: np.ndarray) -> str:
    """Return the range of anchor sizes, the square roots of the areas."""
    sizes = np.sqrt((anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])).round().astype(int)
    low, high = sizes.min(), sizes.max()
    return str(low) if low == high else f"{low} to {high}"
