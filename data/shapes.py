"""Generate the built-in dataset of drawn shapes in COCO format, which needs no download.

It has what makes COCO difficult: category ids with gaps, polygons of the visible part of occluded objects (several if
it falls apart), crowd regions as RLE, objects that are small, medium and large by COCO's limits, images of several
sizes, images without objects. Every byte follows from the seed.
"""

import json
import shutil
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image
from pycocotools import mask as coco_mask

from .cache import cache_folder
from .segmentations import decode_counts
from .shapes_drawing import DrawnObject, draw_image, signed_area

VERSION = 3  # bump it when the drawing changes; it is part of the cache folder's name
CATEGORIES = [  # in the order of shapes_drawing.SHAPES
    {"id": 2, "name": "circle", "supercategory": "round"},
    {"id": 7, "name": "square", "supercategory": "angular"},
    {"id": 13, "name": "triangle", "supercategory": "angular"},
    {"id": 44, "name": "star", "supercategory": "pointed"},
    {"id": 90, "name": "cross", "supercategory": "angular"},
]


@dataclass(frozen=True)
class ShapesSpec:
    """Size of the dataset: images per split, longest side in pixels, seed."""

    num_train: int = 1000
    num_val: int = 120
    side: int = 128
    seed: int = 0


def ensure_shapes(spec: ShapesSpec | None = None, cache: Path | None = None) -> Path:
    """Return the folder of the built-in shapes dataset, and generate it if it does not exist.

    It holds `images/*.jpg`, `instances_train.json` and `instances_val.json`.

    Args:
        spec: size of the dataset; None for the default.
        cache: parent folder of generated datasets. Default: $DETBACKBONES_CACHE, or `detbackbones` in the user's cache.
    """
    spec = spec or ShapesSpec()
    cache = cache or cache_folder()
    folder = cache / "-".join(["shapes", *map(str, astuple(spec)), f"v{VERSION}"])
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    (unfinished / "images").mkdir()
    _write_split(unfinished, spec, "train", count=spec.num_train, first_id=1000)
    _write_split(unfinished, spec, "val", count=spec.num_val, first_id=500_000)
    try:
        unfinished.rename(folder)
    except OSError:  # another process has finished first
        shutil.rmtree(unfinished)
        if not folder.is_dir():
            raise
    return folder


def _write_split(folder: Path, spec: ShapesSpec, split: str, count: int, first_id: int) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        pixels, objects = draw_image(np.random.default_rng([spec.seed, first_id, index]), spec.side)
        height, width = pixels.shape[:2]
        image_id = first_id + 3 * index
        file_name = f"{split}_{image_id:06d}.jpg"
        Image.fromarray(pixels).save(folder / "images" / file_name, quality=90)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height, "license": 1})
        for item in objects:
            if item.mask.sum() >= 20:  # else too little is visible
                annotations.append({"id": first_id + len(annotations), "image_id": image_id, **_annotate(item)})
    content = {
        "info": {"description": "generated shapes", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "MIT", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    (folder / f"instances_{split}.json").write_text(json.dumps(content))


def _annotate(item: DrawnObject) -> dict:
    """Return the COCO annotation of a visible mask; box and area are those of the segmentation that is written."""
    if item.crowd:
        rle = coco_mask.encode(np.asfortranarray(item.mask))
        segmentation: dict | list = {"counts": decode_counts(rle["counts"].decode()), "size": list(item.mask.shape)}
    else:
        segmentation = _polygons(item.mask)
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *item.mask.shape))
    return {
        "category_id": CATEGORIES[item.shape]["id"],
        "iscrowd": int(item.crowd),
        "segmentation": segmentation,
        "area": float(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Return the outer outlines of a mask as COCO polygons, pixel edges at whole numbers. Holes are filled."""
    contours: Any = contour_generator(z=np.pad(mask, 1).astype(np.float32)).lines(0.5)
    lines = [contour[:-1] for contour in contours]
    areas = [signed_area(line) for line in lines]
    outer = np.sign(max(areas, key=abs))  # holes run in the other direction
    polygons = []
    for line, area in zip(lines, areas, strict=True):
        if area * outer >= 4 and len(line) >= 3:
            corners = np.clip(line - 0.5, 0, (mask.shape[1], mask.shape[0]))
            polygons.append(np.round(corners, 2).ravel().tolist())
    return polygons
