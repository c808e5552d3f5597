"""What lies behind the metrics: numbers per class, score thresholds, confusions, error types and curves.

hotcoco computes them, also if pycocotools computes the metrics.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .coco import CocoEvaluator
from .metrics import IOU_50, IOU_75, mean

IOU = 0.5  # of thresholds, confusions and error types
CALIBRATION_BINS = 10
CURVES = ("0.50", "0.75", "0.50:0.95")  # IoU of the curves of a class
COLUMNS = ("objects", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "threshold", "precision", "recall", "F1")


@dataclass(frozen=True)
class Details:
    """Details of one kind. None stands for what does not exist, such as the AP of a class without objects.

    Attributes:
        kind: "bbox" or "segm".
        classes: per class "id", "name", "objects" (crowd regions excluded), "AP", "AP50", "AP75", "APs", "APm", "APl",
            "AR" at the evaluator's `max_dets`; and the score "threshold" with the largest F1 at IoU 0.5, with the
            "precision", "recall" and "F1" of the detections that reach it.
        overall: the threshold that is best for all classes together, with "precision", "recall" and "F1".
        confusion: (classes + 1) x (classes + 1) counts at IoU 0.5 of the detections that reach the overall threshold.
            A row is the class of an object, a column that of its detection; the last row counts detections of
            nothing, the last column objects that are not detected. Detections that the metrics ignore, such as those
            of crowd regions, are left out.
        errors: TIDE (https://arxiv.org/abs/2008.08115) at IoU 0.5: "delta_ap", how much AP50 grows without the errors
            of a type, and "counts".
        calibration: "ece", the expected calibration error (https://arxiv.org/abs/1706.04599) of the scores, the mean
            over detections of the distance between score and share of true ones at IoU 0.5, in ten "bins" of the score
            with "bin_lower", "bin_upper", "avg_confidence", "avg_accuracy" and "count"; None without detections.
        recall: the 101 points of recall at which precision is given.
        precision: classes x 3 x 101, at the IoU of `CURVES` (the last is the mean over ten); -1 for a class without
            objects.
    """

    kind: str
    classes: list[dict[str, Any]]
    overall: dict[str, float | None]
    confusion: np.ndarray
    errors: dict[str, Any]
    calibration: dict[str, Any]
    recall: np.ndarray
    precision: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the numbers of `classes` in the form of JSON."""
        names = [{"id": row["id"], "name": row["name"]} for row in self.classes]
        curves = [
            {**name, **dict(zip(CURVES, np.round(curve, 6).tolist()))}
            for name, curve in zip(names, self.precision)
            if curve.min() > -1
        ]
        return {
            "classes": self.classes,
            "overall": self.overall,
            "confusion": {"iou": IOU, "min_score": self.overall["threshold"], "matrix": self.confusion.tolist()},
            "errors": self.errors,
            "calibration": self.calibration,
            "curves": {"recall": np.round(self.recall, 6).tolist(), "precision": curves},
        }


def compute_details(evaluator: CocoEvaluator, kind: str) -> Details:
    """Return the details of the evaluator's detections."""
    scorer = evaluator.score(kind, "hotcoco")
    precision, recall = scorer.eval["precision"][..., -1], scorer.eval["recall"][..., -1]
    table, _ = evaluator.collect()
    status = np.zeros(len(table), dtype=int)  # 1: matches an object, -1: matches none, 0: does not count
    for number, name in scorer.image_diagnostics(iou_thr=IOU)["dt_status"].items():
        status[number - 1] = 1 if name == "tp" else -1
    categories, scores = table[:, 6].astype(int), table[:, 5]
    crowds = np.array([bool(entry.get("iscrowd", 0)) for entry in evaluator.annotations], dtype=bool)
    numbers = [evaluator.category_numbers[entry["category_id"]] for entry in evaluator.annotations]
    objects = np.bincount(np.array(numbers, dtype=int)[~crowds], minlength=len(evaluator.category_ids) + 1)
    classes = []
    for index, (category_id, name) in enumerate(zip(evaluator.category_ids, evaluator.category_names)):
        found = categories == index + 1
        threshold = best_threshold(scores[found], status[found], int(objects[index + 1]))
        row = {"id": category_id, "name": name, "objects": int(objects[index + 1])}
        classes.append({**row, **_class_metrics(precision[:, :, index], recall[:, index]), **threshold})
    overall = best_threshold(scores, status, int(objects.sum()))
    return Details(
        kind=kind,
        classes=classes,
        overall=overall,
        confusion=_confusion(evaluator, kind, status != 0, scores, overall["threshold"]),
        errors=scorer.tide_errors(pos_thr=IOU),
        calibration=_calibration(scorer),
        recall=np.linspace(0, 1, precision.shape[1]),
        precision=np.stack([precision[IOU_50, ..., 0].T, precision[IOU_75, ..., 0].T, precision[..., 0].mean(0).T], 1),
    )


def best_threshold(scores: np.ndarray, status: np.ndarray, objects: int) -> dict[str, float | None]:
    """Return the score threshold with the largest F1, the highest of them if several are equal.

    Args:
        scores: N.
        status: N; 1 for a detection that matches an object, -1 for one that does not, 0 for one that does not count.
        objects: number of objects.

    Returns:
        "threshold" and the "precision", "recall" and "F1" of the detections that reach it; None if nothing matches.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[status[order] != 0]
    scores, matches = scores[order], np.cumsum(status[order] == 1)
    if not len(matches) or not matches[-1]:
        return {"threshold": None, "precision": None, "recall": None, "F1": None}
    f1 = 2 * matches / (np.arange(1, len(matches) + 1) + objects)
    f1[:-1][scores[:-1] == scores[1:]] = 0  # a threshold keeps all detections of one score
    best = int(f1.argmax())
    return {
        "threshold": float(scores[best]),
        "precision": float(matches[best] / (best + 1)),
        "recall": float(matches[best] / objects),
        "F1": float(f1[best]),
    }


def write_class_csv(path: Path, details: Sequence[Details]) -> None:
    """Write a CSV file with a row per kind and class; a missing value is an empty cell."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "id", "name", *COLUMNS])
        for detail in details:
            for row in detail.classes:
                writer.writerow([detail.kind, row["id"], row["name"], *(row[column] for column in COLUMNS)])


def class_labels(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of classes, with the id after a name that several have."""
    counts = Counter(row["name"] for row in classes)
    return [row["name"] if counts[row["name"]] == 1 else f"{row['name']} ({row['id']})" for row in classes]


def _class_metrics(precision: np.ndarray, recall: np.ndarray) -> dict[str, float | None]:
    """Return AP and AR of a class from its precision (IoU x recall x area) and recall (IoU x area)."""
    parts = {"AP": precision[..., 0], "AP50": precision[IOU_50, :, 0], "AP75": precision[IOU_75, :, 0]}
    parts |= {"APs": precision[..., 1], "APm": precision[..., 2], "APl": precision[..., 3], "AR": recall[:, 0]}
    means = {name: mean(part) for name, part in parts.items()}
    return {name: None if value < 0 else value for name, value in means.items()}


def _calibration(scorer: Any) -> dict[str, Any]:
    found = scorer.calibration(n_bins=CALIBRATION_BINS, iou_threshold=IOU)
    return {"ece": found["ece"] if found["num_detections"] else None, "bins": found["bins"]}


def _confusion(
    evaluator: CocoEvaluator, kind: str, counts: np.ndarray, scores: np.ndarray, threshold: float | None
) -> np.ndarray:
    """Return the confusion matrix of the detections that count and reach the threshold, see `Details.confusion`."""
    rows = counts if threshold is None else counts & (scores >= threshold)
    scorer = evaluator.score(kind, "hotcoco", rows)
    matrix = scorer.confusion_matrix(iou_thr=IOU, max_det=int(rows.sum()))["matrix"]
    return matrix.astype(int)
