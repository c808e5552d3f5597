"""What became of every detection and every object of an image: true, false, duplicate, missed or ignored.

COCO's matching decides at IoU 0.5: detections of a class take objects of that class one by one, the best score first.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np

from ..data.segmentations import to_rle
from .coco import CocoEvaluator

IOU = 0.5
TRUE, FALSE, DUPLICATE, MISSED, IGNORED = "true", "false", "duplicate", "missed", "ignored"


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on one image.

    Attributes:
        detections: per detection in the order of `CocoEvaluator.predictions`, "true"; "duplicate" if it fits an object
            of its class that a better detection has taken; "false"; or "ignored" if COCO does not count it: it fits a
            crowd region, LVIS did not verify its class, or the image has more than `max_dets` of its class.
        objects: per annotation of the image in the order of the annotation file, "true", "missed" or "ignored".
        is_used: whether a detection reaches the score threshold.
    """

    detections: tuple[str, ...]
    objects: tuple[str, ...]
    is_used: tuple[bool, ...]

    @property
    def counts(self) -> Counter[str]:
        """Number of true, false, duplicate and ignored detections that reach the threshold, and of missed objects."""
        used = (verdict for verdict, is_used in zip(self.detections, self.is_used) if is_used)
        return Counter([*used, *(verdict for verdict in self.objects if verdict == MISSED)])

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 for an image without objects and detections."""
        counts = self.counts
        errors = counts[FALSE] + counts[DUPLICATE] + counts[MISSED]
        return 2 * counts[TRUE] / (2 * counts[TRUE] + errors) if counts[TRUE] or errors else 1.0


def content_of_images(content: Mapping[str, Any], image_ids: Collection[Hashable]) -> dict[str, Any]:
    """Return the content of an annotation file with these images alone, for an evaluator of a few samples."""
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in image_ids],
        "annotations": [entry for entry in content["annotations"] if entry["image_id"] in image_ids],
    }


def judge(evaluator: CocoEvaluator, kind: str, min_score: float = 0.0) -> dict[Hashable, Verdicts]:
    """Return the verdicts on every image of an evaluator, in the order of its images.

    Args:
        evaluator: with detections.
        kind: "bbox" or "segm": what the overlap is computed of.
        min_score: score that a detection needs to count. The matching does not depend on it, because a detection takes
            its object before those of lower scores; an object that only a lower one has taken is missed.
    """
    table, masks = evaluator.collect()
    scores = table[:, 5]
    found = evaluator.score(kind, "hotcoco").image_diagnostics(iou_thr=IOU)
    status, takers = found["dt_status"], found["gt_match"]
    detections = [{"tp": TRUE, "fp": FALSE}.get(status.get(row + 1, ""), IGNORED) for row in range(len(table))]
    objects = [IGNORED] * len(evaluator.annotations)
    for number in found["gt_status"]:
        is_found = number in takers and scores[takers[number] - 1] >= min_score
        objects[number - 1] = TRUE if is_found else MISSED
    rows: dict[Hashable, list[int]] = {image_id: [] for image_id in evaluator.image_numbers}
    image_ids = list(rows)
    for row, number in enumerate(table[:, 0].astype(int).tolist()):
        rows[image_ids[number - 1]].append(row)
    annotations: dict[Hashable, list[int]] = {image_id: [] for image_id in image_ids}
    for index, entry in enumerate(evaluator.annotations):
        annotations[entry["image_id"]].append(index)
    for image_id, places in rows.items():
        false = [row for row in places if detections[row] == FALSE]
        taken = [evaluator.annotations[index] for index in annotations[image_id] if index + 1 in takers]
        for row in _duplicates(evaluator, kind, false, taken, table, masks):
            detections[row] = DUPLICATE
    return {
        image_id: Verdicts(
            tuple(detections[row] for row in rows[image_id]),
            tuple(objects[index] for index in annotations[image_id]),
            tuple(bool(scores[row] >= min_score) for row in rows[image_id]),
        )
        for image_id in image_ids
    }


def _duplicates(
    evaluator: CocoEvaluator, kind: str, rows: Sequence[int], taken: Sequence[Any], table: np.ndarray, masks: list
) -> list[int]:
    """Return those of an image's unmatched detections that overlap a taken object of their class by at least IOU."""
    if not rows or not taken:
        return []
    if kind == "bbox":
        shapes: tuple[Any, Any] = table[rows, 1:5], np.array([entry["bbox"] for entry in taken], dtype=float)
    else:
        objects = [to_rle(entry["segmentation"], *evaluator.sizes[entry["image_id"]]) for entry in taken]
        shapes = [masks[row] for row in rows], objects
    overlap = np.asarray(hotcoco.mask.iou(*shapes, [False] * len(taken)))
    classes = np.array([evaluator.category_numbers[entry["category_id"]] for entry in taken])
    fits = (overlap >= IOU) & (table[rows, 6].astype(int)[:, None] == classes)
    return [row for row, is_duplicate in zip(rows, fits.any(1)) if is_duplicate]
