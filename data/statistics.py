"""Mean and standard deviation of the channels of a dataset's images."""

import numpy as np

from ..errors import InputError
from .coco import CocoDataset

MAX_IMAGES = 200
SMALLEST_STD = 1 / 255  # of a constant channel, by which images are divided


def channel_statistics(dataset: CocoDataset, max_images: int = MAX_IMAGES) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation per channel over all pixels of evenly spaced images, which are in [0, 1].

    Images are taken as they are on disk, without resizing, so that nothing random is in the result.

    Raises:
        InputError: none of these images can be read.
    """
    indices = np.linspace(0, len(dataset) - 1, min(len(dataset), max_images)).astype(int)
    counts = np.zeros((dataset.channels, 256), dtype=np.int64)  # histograms are exact
    for index in indices.tolist():
        try:
            image = dataset.read(index)
        except ValueError:  # the training reports it, or skips it
            continue
        for histogram, channel in zip(counts, image.numpy()):
            histogram += np.bincount(channel.ravel(), minlength=256)
    if not counts.any():
        raise InputError(f"{dataset.annotations.path}: none of {len(indices)} images can be read")
    values = np.arange(256) / 255
    frequencies = counts / counts.sum(1, keepdims=True)
    mean = frequencies @ values
    variance = np.maximum(frequencies @ values**2 - mean**2, SMALLEST_STD**2)
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in np.sqrt(variance).tolist()]
