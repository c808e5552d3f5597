"""Summarise a dataset: images, objects by class and size, crowd regions, empty images, files with the same content."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .annotations import Annotations, Id
from .coco import CocoDataset

SIZE_LIMITS = {"small": 32**2, "medium": 96**2}  # largest areas in pixels, as COCO's metrics have them
SIZES = (*SIZE_LIMITS, "large")
CHUNK = 1 << 20


@dataclass
class ClassSummary:
    """Numbers of one class: objects that are not crowds, by size too, crowd regions, and images with any of them."""

    name: str
    objects: int = 0
    crowds: int = 0
    images: set[Id] = field(default_factory=set, repr=False)
    sizes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers of the images that a dataset has.

    Attributes:
        images: number of images.
        left_out: images of the annotation file that the dataset leaves out.
        empty: images without an annotation.
        crowds: number of crowd regions.
        objects: objects that are not crowds by label and size, an array classes x 3 in the order of `SIZES`.
        sides: width and height of each image on disk, an array images x 2.
    """

    images: int
    left_out: int
    empty: int
    crowds: int
    objects: np.ndarray
    sides: np.ndarray


def summarise_dataset(dataset: CocoDataset) -> DatasetSummary:
    """Return the numbers of a dataset with the labels that it has, from the annotations alone."""
    annotations, images = dataset.annotations, dataset.images
    ids = {image["id"] for image in images}
    left_out = [image["id"] for image in annotations.images if image["id"] not in ids]
    unused = [entry for image_id in left_out for entry in annotations.objects.get(image_id, [])]
    counts = _count_objects(annotations.content["annotations"], dataset.category_ids)
    counts -= _count_objects(unused, dataset.category_ids)  # they are few: faster than to choose the others
    return DatasetSummary(
        images=len(images),
        left_out=len(left_out),
        empty=sum(image_id not in annotations.objects for image_id in ids),
        crowds=int(counts[:, -1].sum()),
        objects=counts[:, :-1],
        sides=np.array([(image["width"], image["height"]) for image in images], dtype=int).reshape(-1, 2),
    )


def summarise_classes(annotations: Annotations) -> list[ClassSummary]:
    """Return a summary per class, in the order of the labels."""
    entries = annotations.content["annotations"]
    images: dict[Id, set[Id]] = {category_id: set() for category_id in annotations.category_ids}
    for entry in entries:
        images[entry["category_id"]].add(entry["image_id"])
    counts = _count_objects(entries, annotations.category_ids).tolist()
    return [
        ClassSummary(name, sum(sizes), crowds, images[category_id], Counter(dict(zip(SIZES, sizes, strict=True))))
        for category_id, name, (*sizes, crowds) in zip(annotations.category_ids, annotations.names, counts, strict=True)
    ]


def _count_objects(entries: Sequence[dict], category_ids: Sequence[Id]) -> np.ndarray:
    """Return an array classes x 4 with the numbers of objects by size, in the order of `SIZES`, and of crowd regions.

    COCO has 900,000 objects: the attributes go into arrays, which are counted at once.
    """
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    labels = np.fromiter((label_of[entry["category_id"]] for entry in entries), int, len(entries))
    areas = np.fromiter((entry["area"] for entry in entries), float, len(entries))
    crowds = np.fromiter((entry["iscrowd"] for entry in entries), bool, len(entries))
    columns = np.where(crowds, len(SIZES), np.searchsorted([*SIZE_LIMITS.values()], areas, side="right"))
    width = len(SIZES) + 1
    return np.bincount(labels * width + columns, minlength=len(category_ids) * width).reshape(-1, width)


def duplicate_files(paths: Sequence[Path]) -> list[list[Path]]:
    """Return groups of files with the same content. Only files of the same length are read."""
    by_length = defaultdict(list)
    for path in paths:
        by_length[path.stat().st_size].append(path)
    candidates = [path for group in by_length.values() if len(group) > 1 for path in group]
    by_hash = defaultdict(list)
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(candidates, pool.map(_hash, candidates)):
            by_hash[digest].append(path)
    return [group for group in by_hash.values() if len(group) > 1]


def _hash(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()
