"""Resize images and masks."""

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.transforms.v2 import functional as TF

MAX_ASPECT_RATIO = 10


def resized_shape(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """Return height and width with the short side at `short_side`, or smaller if the long side would pass its limit.

    Args:
        height, width: size of the image.
        short_side: length of the shorter side; None keeps the size.
        long_side: limit of the longer side. None: ten times `short_side`, so that a narrow strip stays small.
    """
    if short_side is None:
        return height, width
    limit = MAX_ASPECT_RATIO * short_side if long_side is None else long_side
    scale = min(short_side / min(height, width), limit / max(height, width))
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
