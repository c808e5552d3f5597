"""Read detections from a COCO results file (https://cocodataset.org/#format-results)."""

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np

from ..data.misread import find_misreading
from ..data.segmentations import clean_segmentation, to_rle
from ..errors import InputError, shorten
from .coco import CocoEvaluator

LIMIT = 1e9  # of coordinates and scores; a larger number would not keep fractions
KEYS = {"bbox": "bbox", "segm": "segmentation"}  # kind -> key of an entry


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a results file, which is a JSON list of dicts.

    Raises:
        InputError: it does not exist, is not JSON, or has another form.
    """
    try:
        entries = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"results file {shorten(path)} does not exist") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"results file {shorten(path)} is not JSON: {shorten(error, 200)}") from None
    if not isinstance(entries, list):
        found = f"a dict with {shorten(list(entries))}" if isinstance(entries, dict) else shorten(entries)
        raise InputError(f"results file {shorten(path)} must be a list of detections, got {found}")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{shorten(path)}: entry {position} must be a dict, got {shorten(entry)}")
    return entries


def kinds_of(entries: list[dict[str, Any]], name: str) -> tuple[str, ...]:
    """Return "bbox", "segm" or both: what the entries have; "bbox" for an empty list.

    Raises:
        InputError: only some entries of the file called `name` have a box, or a mask.
    """
    counts = {kind: sum(key in entry for entry in entries) for kind, key in KEYS.items()}
    for kind, count in counts.items():
        if 0 < count < len(entries):
            position = next(index for index, entry in enumerate(entries) if KEYS[kind] not in entry)
            found = f"entry {position} has no {KEYS[kind]!r}, but {count} of {len(entries)} entries have"
            raise InputError(f"{shorten(name)}: {found}; set iou={'segm' if kind == 'bbox' else 'bbox'}")
    return tuple(kind for kind, count in counts.items() if count) or ("bbox",)


def add_results(evaluator: CocoEvaluator, entries: list[dict[str, Any]], name: str) -> None:
    """Add the entries of a results file to an evaluator.

    Args:
        evaluator: its kinds decide whether entries need a "bbox", a "segmentation" or both.
        entries: of `read_results`; masks may be polygons or RLE.
        name: of the file, for messages.

    Raises:
        InputError: an entry lacks a key, its image or category is not in the annotation file, its score or box is not
            finite, its mask is unusable or has another size than the image, or most boxes or masks look as
            `find_misreading` describes.
    """
    rows: dict[Hashable, list[list[float]]] = {}
    masks: dict[Hashable, list[dict]] = {}
    for position, entry in enumerate(entries):
        try:
            image_id = _known(entry, "image_id", evaluator.image_numbers)
            category = evaluator.category_numbers[_known(entry, "category_id", evaluator.category_numbers)]
            score: Any = entry.get("score")
            if not _is_number(score):
                raise ValueError(f"score must be a finite number, got {shorten(repr(score))}")
            image_masks = masks.setdefault(image_id, [])
            if "segm" in evaluator.kinds:
                image_masks.append(_read_mask(entry, evaluator.sizes[image_id]))
            box = _read_box(entry) if "bbox" in evaluator.kinds else hotcoco.mask.toBbox(image_masks[-1]).tolist()
        except ValueError as error:
            raise InputError(f"{shorten(name)}: entry {position}: {error}") from None
        rows.setdefault(image_id, []).append([evaluator.image_numbers[image_id], *box, score, category])
    if "bbox" in evaluator.kinds:
        has_masks = "segm" in evaluator.kinds
        segmentations = [entry["segmentation"] if has_masks else None for entry in entries]
        sizes = [evaluator.sizes[entry["image_id"]] for entry in entries]
        misread = find_misreading([entry["bbox"] for entry in entries], segmentations, sizes, has_masks)
        if misread is not None:
            raise InputError(f"{shorten(name)}: {misread}")
    tables = {image_id: np.array(values, dtype=float) for image_id, values in rows.items()}
    evaluator.merge({image_id: (table, masks[image_id]) for image_id, table in tables.items()})


def _known(entry: Mapping, key: str, numbers: Mapping[Hashable, int]) -> Hashable:
    """Return the id under `key`. Raises ValueError if it is not in the annotation file."""
    if key not in entry:
        raise ValueError(f"{key} is missing")
    value = entry[key]
    if not isinstance(value, Hashable) or isinstance(value, bool) or value not in numbers:
        examples = ", ".join(repr(known) for known in list(numbers)[:3])
        raise ValueError(
            f"{key} {shorten(repr(value))} is not in the annotation file, which has {shorten(examples)}, ..."
        )
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LIMIT <= value <= LIMIT  # not NaN either


def _read_box(entry: Mapping) -> list[float]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox must be four finite numbers [x, y, width, height], got {shorten(box)}")
    if min(box[2:]) < 0:
        raise ValueError(f"bbox {shorten(box)} has a negative width or height; expected [x, y, width, height]")
    return box


def _read_mask(entry: Mapping, size: tuple[int, int]) -> dict[str, Any]:
    """Return the mask as compressed RLE. Raises ValueError if it is unusable in an image of (height, width)."""
    return to_rle(clean_segmentation(entry.get("segmentation"), *size), *size)
