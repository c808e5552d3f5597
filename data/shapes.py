"""The embedded dataset: generated images of shapes in true COCO format, so that a first run needs no download.

What makes it COCO and no toy format: category ids with gaps, polygons of the visible part of occluded objects (several
where it falls apart), crowd regions as RLE, objects small, medium and large by COCO's limits, images of several
sizes, images without any object. Every byte follows from the seed.
"""

import json
import os
import shutil
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from PIL import Image
from pycocotools import mask as coco_mask

VERSION = 3  # of what is drawn: part of the cache folder's name
CATEGORIES = [
    {"id": 2, "name": "circle", "supercategory": "round"},
    {"id": 7, "name": "square", "supercategory": "angular"},
    {"id": 13, "name": "triangle", "supercategory": "angular"},
    {"id": 44, "name": "star", "supercategory": "pointed"},
    {"id": 90, "name": "cross", "supercategory": "angular"},
]
EMPTY_SHARE, CROWD_SHARE = 0.08, 0.05
SIZES = (  # radius in pixels, where the centre may lie (share of the sides), share of the objects: small, medium, large
    ((9, 16), (0.05, 0.95), 0.32),
    ((16, 40), (0.05, 0.95), 0.52),
    ((58, 76), (0.35, 0.65), 0.16),
)
TILT = 0.35  # radians at most: like COCO's objects, these stand upright
LEAST_VISIBLE = 0.5  # of an object's area, or it is not placed


@dataclass(frozen=True)
class ShapesSpec:
    """Size of the dataset: images a split, longest side in pixels, seed."""

    num_train: int = 1000
    num_val: int = 120
    side: int = 128
    seed: int = 0


def outline(name: str, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Corners of a shape that fits into a circle of this radius: N x 2 pixels, x first. At angle 0 it stands upright."""
    if name == "cross":
        a = 0.36
        corners = np.array([(a, 1), (a, a), (1, a), (1, -a), (a, -a), (a, -1),
                            (-a, -1), (-a, -a), (-1, -a), (-1, a), (-a, a), (-a, 1)]) * 0.94  # fmt: skip
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return centre + radius * corners @ turn.T
    count = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[name]
    angles = angle + (np.arange(count) + (0.5 if name == "square" else 0)) * 2 * np.pi / count - np.pi / 2
    radii = np.where(np.arange(count) % 2, 0.42, 1.0) if name == "star" else np.ones(count)
    return centre + radius * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def texture(random: np.random.Generator, height: int, width: int, colour: np.ndarray, strength: float) -> np.ndarray:
    """A colour with low-frequency blotches, stripes and grain: height x width x 3 float in [0, 255]."""
    coarse = random.normal(0, 1, (random.integers(3, 7), random.integers(3, 7), 3)).astype(np.float32)
    blotches = np.stack([np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.BICUBIC)) for c in range(3)], -1)
    angle, period = random.uniform(0, np.pi), random.uniform(5, 18)
    y, x = np.mgrid[:height, :width]
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)[..., None] * random.uniform(0, 0.7)
    grain = random.normal(0, 0.35, (height, width, 1))
    return np.clip(colour + strength * (blotches + stripes + grain), 0, 255)


def fill(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of a polygon, as pycocotools fills it."""
    return coco_mask.decode(coco_mask.frPyObjects([corners.ravel().tolist()], height, width))[..., 0].astype(bool)


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """Outer outlines of a mask as COCO polygons, pixel edges at whole numbers. Holes are filled, as COCO's are."""
    lines = contour_generator(z=np.pad(mask, 1).astype(np.float32)).lines(0.5)
    found = []
    for line in lines:
        x, y = line[:-1, 0], line[:-1, 1]
        area = 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
        found.append((area, np.clip(line[:-1] - 0.5, 0, (mask.shape[1], mask.shape[0]))))
    outer = np.sign(max(found, key=lambda f: abs(f[0]))[0])  # holes run the other way round
    return [np.round(line, 2).ravel().tolist() for area, line in found if area * outer >= 4 and len(line) >= 3]


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed COCO RLE: column by column, starting with the zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"counts": ([0] if flat[0] else []) + counts, "size": list(mask.shape)}


def draw_image(random: np.random.Generator, side: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray, bool]]]:
    """One image, height x width x 3 uint8, and its objects from back to front: (category index, visible mask, crowd)."""
    height, width = (int(side * factor) // 8 * 8 for factor in random.choice([1.0, 1.0, 1.0, 0.75], 2))
    background = random.uniform(30, 225, 3)
    canvas = texture(random, height, width, background, random.uniform(8, 20))
    objects: list[tuple[int, np.ndarray, bool]] = []
    if random.random() < EMPTY_SHARE:
        return canvas.astype(np.uint8), objects

    def colour() -> np.ndarray:
        while True:
            choice = random.uniform(0, 255, 3)
            if np.abs(choice - background).max() > 100:
                return choice

    def paint(category: int, mask: np.ndarray, tint: np.ndarray, crowd: bool) -> None:
        for index, (other, seen, was_crowd) in enumerate(objects):
            objects[index] = (other, seen & ~mask, was_crowd)
        rows, columns = (slice(line.min(), line.max() + 1) for line in np.nonzero(mask))
        window, inside = canvas[rows, columns], mask[rows, columns]
        window[inside] = texture(random, *inside.shape, tint, random.uniform(4, 14))[inside]
        objects.append((category, mask, crowd))

    if random.random() < CROWD_SHARE:
        category, middle, tint = random.integers(len(CATEGORIES)), random.uniform(0.25, 0.75, 2) * (width, height), colour()
        together = np.zeros((height, width), bool)
        for _ in range(random.integers(10, 18)):
            corners = outline(CATEGORIES[category]["name"], middle + random.normal(0, 14, 2), random.uniform(4, 7), random.uniform(-TILT, TILT))
            together |= fill(corners, height, width)
        paint(category, together, tint, True)

    for _ in range(random.choice([1, 2, 3, 4, 5, 6], p=[0.12, 0.2, 0.24, 0.2, 0.14, 0.1])):
        for _attempt in range(8):
            category = random.integers(len(CATEGORIES))
            radii, middle, _ = SIZES[random.choice(len(SIZES), p=[share for *_, share in SIZES])]
            radius, centre = random.uniform(*radii), random.uniform(*middle, 2) * (width, height)
            whole = outline(CATEGORIES[category]["name"], centre, radius, random.uniform(-TILT, TILT))
            mask = fill(whole, height, width)
            if not mask.any():
                continue
            inside = mask.sum() / (0.5 * abs(np.dot(whole[:, 0], np.roll(whole[:, 1], 1)) - np.dot(whole[:, 1], np.roll(whole[:, 0], 1))))
            left = [(seen & ~mask).sum() / max(1, seen.sum()) for _, seen, _ in objects]
            if inside > 0.55 and all(share > LEAST_VISIBLE for share in left):
                paint(category, mask, colour(), False)
                break
    return canvas.astype(np.uint8), objects


def annotate(category: int, mask: np.ndarray, crowd: bool) -> dict:
    """A COCO annotation of a visible mask; box and area are those of the segmentation that is written."""
    segmentation = run_lengths(mask) if crowd else polygons_of(mask)
    encoded = coco_mask.frPyObjects(segmentation, *mask.shape)
    encoded = encoded if crowd else coco_mask.merge(encoded)
    return {"category_id": CATEGORIES[category]["id"], "iscrowd": int(crowd), "segmentation": segmentation,
            "area": float(coco_mask.area(encoded)), "bbox": coco_mask.toBbox(encoded).tolist()}  # fmt: skip


def write_split(folder: Path, spec: ShapesSpec, name: str, number: int, first_id: int) -> None:
    images, annotations = [], []
    for index in range(number):
        random = np.random.default_rng([spec.seed, first_id, index])
        picture, objects = draw_image(random, spec.side)
        image_id = first_id + 3 * index
        file_name = f"{name}_{image_id:06d}.jpg"
        Image.fromarray(picture).save(folder / "images" / file_name, quality=90)
        images.append({"id": image_id, "file_name": file_name, "width": picture.shape[1], "height": picture.shape[0], "license": 1})
        for category, mask, crowd in objects:
            if mask.sum() < 20:
                continue
            annotations.append({"id": first_id + len(annotations), "image_id": image_id, **annotate(category, mask, crowd)})
    content = {
        "info": {"description": "generated shapes", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "MIT", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    (folder / f"instances_{name}.json").write_text(json.dumps(content))


def cache_folder() -> Path:
    """$DETBACKBONES_CACHE, else `detbackbones` in the user's cache folder."""
    if "DETBACKBONES_CACHE" in os.environ:
        return Path(os.environ["DETBACKBONES_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "detbackbones"


def ensure_shapes(spec: ShapesSpec = ShapesSpec(), cache: Path | None = None) -> Path:
    """The dataset's folder: `images/*.jpg`, `instances_train.json`, `instances_val.json`. Written once, then reused."""
    cache = cache or cache_folder()
    folder = cache / "-".join(["shapes", *map(str, astuple(spec)), f"v{VERSION}"])
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    (building / "images").mkdir()
    write_split(building, spec, "train", spec.num_train, 1000)
    write_split(building, spec, "val", spec.num_val, 500_000)
    try:
        building.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(building)
        if not folder.is_dir():
            raise
    return folder
