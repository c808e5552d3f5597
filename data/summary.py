"""Summarise a dataset: images, objects by class and size, crowd regions, empty images, files with the same content."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .annotations import Annotations, Id

SIZE_LIMITS = {"small": 32**2, "medium": 96**2}  # largest areas in pixels, as COCO's metrics have them
CHUNK = 1 << 20


@dataclass
class ClassSummary:
    """Numbers of one class: objects that are not crowds, by size too, crowd regions, and images with any of them."""

    name: str
    objects: int = 0
    crowds: int = 0
    images: set[Id] = field(default_factory=set, repr=False)
    sizes: Counter[str] = field(default_factory=Counter)


def summarise_classes(annotations: Annotations) -> list[ClassSummary]:
    """Return a summary per class, in the order of the labels."""
    summaries = {id: ClassSummary(name) for id, name in zip(annotations.category_ids, annotations.names, strict=True)}
    for entry in annotations.content["annotations"]:
        summary = summaries[entry["category_id"]]
        summary.images.add(entry["image_id"])
        if entry["iscrowd"]:
            summary.crowds += 1
        else:
            summary.objects += 1
            sizes = [size for size, limit in SIZE_LIMITS.items() if entry["area"] < limit]
            summary.sizes[sizes[0] if sizes else "large"] += 1
    return list(summaries.values())


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
