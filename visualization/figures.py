"""Grids of axes with matplotlib's non-interactive backend."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

FONT_SIZE = 7  # points
# Paul Tol's "muted" colours (https://personal.sron.nl/~pault/), which colour-blind readers can tell apart
LINE_COLOURS = (
    *("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499", "#888888"),
)
PLAIN = {"parse_math": False, "usetex": False}  # arguments of a text that is drawn as it is


def make_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its rows x columns axes, without frames, each of `width` x `height` inches with its title."""
    figure = Figure(figsize=(columns * width, rows * height), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def to_rgb(image: Tensor) -> np.ndarray:
    """Return an image C x H x W uint8 as H x W x 3: its first three channels, or the first one as grey."""
    channels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return channels.permute(1, 2, 0).numpy()


def save_figure(figure: Figure, target: Path | BinaryIO, format: str = "png") -> None:
    """Write a figure as PNG or JPEG; a character that the font does not have is drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(target, format=format, pil_kwargs={"quality": 88} if format == "jpeg" else {})
