"""Draw masks at the size of a resized image."""

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.transforms.v2 import functional as TF


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
