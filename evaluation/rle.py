"""Run-length encodings of masks in COCO's form."""

from collections.abc import Mapping
from typing import Any

import hotcoco

MIN_NUMBERS = 6  # of a polygon; pycocotools takes four numbers for a box and stops at two


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return a mask as compressed RLE with text counts.

    Polygons become the pixels that pycocotools gives them.

    Args:
        segmentation: polygons or an RLE, as `data.segmentations` passes them.
        height, width: size of the image.
    """
    if isinstance(segmentation, Mapping) and isinstance(segmentation["counts"], str):
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    if isinstance(segmentation, Mapping):
        rle = hotcoco.mask.frPyObjects(dict(segmentation), height, width)
    else:
        polygons = [polygon for polygon in segmentation if len(polygon) >= MIN_NUMBERS]
        rle = hotcoco.mask.merge(hotcoco.mask.frPyObjects(polygons, height, width))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
