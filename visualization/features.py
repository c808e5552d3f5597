"""Draw feature maps over their image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from ..errors import shorten
from ..specs import FeatureSpec
from .figures import FONT_SIZE, PLAIN, make_grid, save_figure, to_rgb

PANEL_WIDTH, SMALL_WIDTH = 2.6, 2.0  # inches
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


def save_feature_statistics(
    target: Path | BinaryIO, image: Tensor, features: Mapping[str, np.ndarray], specs: Sequence[FeatureSpec]
) -> None:
    """Write a PNG with the image, and per level the mean over channels, the largest channel and principal components.

    Mean and maximum go from dark to bright; the first three components are red, green and blue.

    Args:
        target: the file.
        image: C x H x W uint8.
        features: name -> C x H x W float array.
        specs: geometry of the features, in the same order.
    """
    height, width = image.shape[-2:]
    aspect = min(max(height / width, 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
    levels_per_row = 1 if len(features) == 1 else 2
    rows = -(-(len(features) + 1) // levels_per_row)
    figure, axes = make_grid(rows, 3 * levels_per_row, SMALL_WIDTH, SMALL_WIDTH * aspect + 0.3)
    step = max(1, max(height, width) // MAX_SIDE)
    first, *groups = axes.reshape(-1, 3)
    first[0].imshow(to_rgb(image)[::step, ::step])
    first[0].set_title(f"{width} x {height}", fontsize=FONT_SIZE)
    for group, (name, feature), spec in zip(groups, features.items(), specs):
        cells = (0, feature.shape[2] * spec.stride, feature.shape[1] * spec.stride, 0)  # x1, x2, y2, y1
        shape = " x ".join(map(str, feature.shape))
        maps = {
            f"{shorten(name, 20)}, stride {spec.stride}: mean": feature.mean(0),
            f"max of {shape}": feature.max(0),
            "principal components": principal_components(feature),
        }
        for axis, (title, values) in zip(group, maps.items()):
            low, high = np.percentile(values, (1, 99)) if values.ndim == 2 else (None, None)
            axis.imshow(values, cmap="inferno", extent=cells, interpolation="nearest", vmin=low, vmax=high)
            axis.set(xlim=(0, width), ylim=(height, 0))
            axis.set_title(title, fontsize=FONT_SIZE, **PLAIN)
    save_figure(figure, target)


def principal_components(feature: np.ndarray, count: int = 3) -> np.ndarray:
    """Return the first principal components over the cells of a map, H x W x `count`, each scaled to [0, 1].

    A component whose largest deviation is negative is negated; one that does not vary is 0.
    """
    values = feature.reshape(len(feature), -1).astype(np.float64)
    values -= values.mean(1, keepdims=True)
    if values.shape[0] <= values.shape[1]:
        _, directions = np.linalg.eigh(values @ values.T)
        scores = directions[:, ::-1][:, :count].T @ values
    else:  # more channels than cells
        spread, directions = np.linalg.eigh(values.T @ values)
        scores = (directions * np.sqrt(np.maximum(spread, 0)))[:, ::-1][:, :count].T
    components = np.zeros((count, values.shape[1]))
    for component, score in zip(components, scores):
        score = score * (1 if score.max() >= -score.min() else -1)
        low, high = np.percentile(score, (1, 99))
        if high - low > 1e-9 * max(np.abs(values).max(), 1e-30):
            component[:] = np.clip((score - low) / (high - low), 0, 1)
    return components.T.reshape(*feature.shape[1:], count)
