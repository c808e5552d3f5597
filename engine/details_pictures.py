"""Pictures of the details of an evaluation, in the form that `details.json` has."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..evaluation.details import CURVES, class_labels
from ..visualization.calibration import save_reliability_diagrams
from ..visualization.curves import save_confusion_matrices, save_pr_curves

Details = Mapping[str, Mapping[str, Any]]  # kind -> Details.as_dict

KIND_NAMES = {"bbox": "boxes", "segm": "masks"}


def draw_pr_curves(target: Path | BinaryIO, details: Details) -> None:
    """Draw precision against recall, a panel per kind."""
    panels = []
    for kind, content in details.items():
        labels = dict(zip(map(_key, content["classes"]), class_labels(content["classes"])))
        curves, recall = content["curves"]["precision"], np.array(content["curves"]["recall"], dtype=float)
        precision = np.array([[curve[name] for name in CURVES] for curve in curves], dtype=float)
        names = [labels[_key(curve)] for curve in curves]
        panels.append((KIND_NAMES[kind], recall, precision.reshape(-1, len(CURVES), len(recall)), names))
    save_pr_curves(target, panels)


def draw_confusion(target: Path | BinaryIO, details: Details) -> None:
    """Draw the confusion matrices at the score with the best F1, a panel per kind."""
    panels = []
    for kind, content in details.items():
        score = content["overall"]["threshold"]
        title = f"{KIND_NAMES[kind]}, IoU 0.5, " + ("no match" if score is None else f"score ≥ {score:.3g} (best F1)")
        panels.append((title, np.array(content["confusion"]["matrix"]), class_labels(content["classes"])))
    save_confusion_matrices(target, panels)


def draw_calibration(target: Path | BinaryIO, details: Details) -> None:
    """Draw the reliability diagrams, a panel per kind."""
    save_reliability_diagrams(target, [(KIND_NAMES[kind], content["calibration"]) for kind, content in details.items()])


def _key(row: Mapping[str, Any]) -> Hashable:
    return row["id"], row["name"]
