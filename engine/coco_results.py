"""Write what a scored `CocoEvaluator` holds into a folder: predictions, numbers per class, error analysis, pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group

from ..evaluation.coco import CocoEvaluator
from ..evaluation.details import Details, class_labels, compute_details, write_class_csv
from ..evaluation.tables import class_table, error_table
from .details_pictures import draw_calibration, draw_confusion, draw_pr_curves


def save_predictions(evaluator: CocoEvaluator, folder: Path, for_pycocotools: bool = False) -> None:
    """Write `predictions.json`, a COCO results file with the ids of the annotation file.

    An entry has the box and, if masks are scored, the mask of a detection. pycocotools would take the area of the box
    for that of the mask and so change APs, APm and APl of masks: for it, the masks alone are also written.

    Args:
        evaluator: with the detections.
        folder: an existing folder.
        for_pycocotools: write `predictions_segm.json` too, if masks are scored.
    """
    _write_json(folder / "predictions.json", evaluator.results())
    if for_pycocotools and "segm" in evaluator.kinds:
        _write_json(folder / "predictions_segm.json", evaluator.results("segm"))


def save_details(evaluator: CocoEvaluator, folder: Path) -> Group:
    """Write `per_class.csv`, `details.json` and pictures of its curves and matrices; return tables to print."""
    details = [compute_details(evaluator, kind) for kind in evaluator.kinds]
    write_class_csv(folder / "per_class.csv", details)
    content = {detail.kind: detail.as_dict() for detail in details}
    _write_json(folder / "details.json", content)
    draw_pr_curves(folder / "pr_curves.png", content)
    draw_confusion(folder / "confusion_matrix.png", content)
    draw_calibration(folder / "calibration.png", content)
    return _tables(details)


def summarize_details(evaluator: CocoEvaluator) -> Group:
    """Return tables of the classes and of the errors to print."""
    return _tables([compute_details(evaluator, kind) for kind in evaluator.kinds])


def _tables(details: Sequence[Details]) -> Group:
    labels = class_labels(details[0].classes)
    classes = [class_table(detail.kind, detail.classes, labels) for detail in details]
    return Group(*classes, error_table({detail.kind: detail.errors["delta_ap"] for detail in details}))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
