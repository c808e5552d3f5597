"""Draw feature maps over their image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..specs import FeatureSpec
from .figures import FONT_SIZE, make_grid


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
    figure, axes = make_grid(rows, columns, width=2.6, height=2.6 * height / width + 0.3)
    pixels = image.permute(1, 2, 0).numpy()
    image_axis, *level_axes = axes.flat
    image_axis.imshow(pixels)
    image_axis.set_title(f"{width} x {height}", fontsize=FONT_SIZE)
    for axis, (name, feature), spec in zip(level_axes, features.items(), specs):
        strength = np.sqrt((feature**2).mean(0))
        enlarged = strength.repeat(spec.stride, axis=0).repeat(spec.stride, axis=1)[:height, :width]
        low, high = np.percentile(enlarged, (1, 99))
        axis.imshow(pixels)
        axis.imshow(enlarged, cmap="inferno", alpha=0.65, vmin=low, vmax=max(high, low + 1e-12))
        axis.set_title(f"{name}: {' x '.join(map(str, feature.shape))}, stride {spec.stride}", fontsize=FONT_SIZE)
    figure.savefig(path)
