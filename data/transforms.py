"""Read images; resize images and masks."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


def read_rgb(path: Path) -> Tensor:
    """Read an image with Pillow. torchvision's own decoder is not faster, and is deprecated since torchvision 0.29.

    Returns:
        3 x H x W uint8 RGB, in memory H x W x 3: Pillow's order, in which the resize is fastest.

    Raises:
        OSError, SyntaxError, ValueError: from Pillow, if the file does not decode.
    """
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)


def resized_shape(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """Return height and width with the short side at `short_side`, or smaller if the long side would pass `long_side`.

    None for `short_side` keeps the size; None for `long_side` sets no limit.
    """
    if short_side is None:
        return height, width
    scale = short_side / min(height, width)
    if long_side is not None:
        scale = min(scale, long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def object_mask(segmentation: list | dict, height: int, width: int, original: tuple[int, int]) -> np.ndarray:
    """Draw the segmentation of an object at another size.

    Polygons are scaled before they are filled, which is exact and cheaper than to scale a mask.

    Args:
        segmentation: COCO polygons or RLE of an image of size `original`.
        height, width: size of the mask.
        original: height and width of the image on disk.

    Returns:
        height x width uint8, 1 inside the object.
    """
    if isinstance(segmentation, list):
        scale = np.array([width / original[1], height / original[0]])
        polygons = [np.asarray(points, dtype=float) for points in segmentation if len(points) >= 6]
        if not polygons:
            return np.zeros((height, width), np.uint8)
        scaled = [(points.reshape(-1, 2) * scale).ravel().tolist() for points in polygons]
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, height, width)))
    uncompressed = isinstance(segmentation["counts"], list)
    rle = coco_mask.frPyObjects(segmentation, *original) if uncompressed else segmentation
    mask = torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rle)))[None]
    return TF.resize(mask, [height, width], interpolation=TF.InterpolationMode.NEAREST)[0].numpy()
