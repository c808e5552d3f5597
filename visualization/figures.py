"""Grids of axes with matplotlib's non-interactive backend."""

import numpy as np
from matplotlib.figure import Figure

FONT_SIZE = 7  # points


def make_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its rows x columns axes, without frames, each of `width` x `height` inches with its title."""
    figure = Figure(figsize=(columns * width, rows * height), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes
