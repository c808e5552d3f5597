"""Draw feature maps over their image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import shorten
from ..specs import FeatureSpec
from .figures import FONT_SIZE, PLAIN, make_grid, save_figure, to_rgb

PANEL_WIDTH = 2.6  # inches
MAX_ASPECT_RATIO = 3  # of a panel; the image keeps its own
MAX_SIDE = 1000  # pixels of the image that are drawn


def save_feature_maps(
    path: Path, image: Tensor, features: Mapping[str, np.ndarray], specs: Sequence[FeatureSpec]
) -> None:
    """Write a PNG with the image, and per level the strength of its cells over the image, from dark to bright.

    The strength of a cell is the root mean square of its channels.

    Args:
        path: the PNG file.
        image: C x H x W uint8.
        features: name -> C x H x W float array.
        specs: geometry of the features, in the same order.
    """
    height, width = image.shape[-2:]
    columns = min(6, len(features) + 1)
    rows = -(-(len(features) + 1) // columns)
    aspect = min(max(height / width, 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
    figure, axes = make_grid(rows, columns, width=PANEL_WIDTH, height=PANEL_WIDTH * aspect + 0.3)
    step = max(1, max(height, width) // MAX_SIDE)  # a panel has a few hundred pixels
    ys, xs = np.arange(0, height, step), np.arange(0, width, step)
    pixels = to_rgb(image)[::step, ::step]
    image_axis, *level_axes = axes.flat
    image_axis.imshow(pixels)
    image_axis.set_title(f"{width} x {height}", fontsize=FONT_SIZE)
    for axis, (name, feature), spec in zip(level_axes, features.items(), specs):
        strength = np.sqrt((feature**2).mean(0))
        rows_of_cells, columns_of_cells = (
            np.minimum(places // spec.stride, cells - 1) for places, cells in zip((ys, xs), strength.shape)
        )
        enlarged = strength[rows_of_cells][:, columns_of_cells]
        low, high = np.percentile(enlarged, (1, 99))
        axis.imshow(pixels)
        axis.imshow(enlarged, cmap="inferno", alpha=0.65, vmin=low, vmax=max(high, low + 1e-12))
        shape = " x ".join(map(str, feature.shape))
        axis.set_title(f"{shorten(name, 20)}: {shape}, stride {spec.stride}", fontsize=FONT_SIZE, **PLAIN)
    save_figure(figure, path)
