"""The sections of a report on learning, classes, errors and detections."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..data.coco import CocoDataset
from ..evaluation.coco import CocoEvaluator
from ..evaluation.details import class_labels
from ..evaluation.tables import points
from ..evaluation.verdicts import judge
from ..visualization.detections import STYLES, save_judged_samples
from ..visualization.learning_curves import save_learning_curves
from ..visualization.report import Bar, Section, embed_picture
from .details_pictures import KIND_NAMES, Details, draw_calibration, draw_confusion, draw_pr_curves
from .judged_samples import judged_samples, worst_images

ERRORS = {  # TIDE's name -> name, meaning
    "Cls": ("class", "a detection on an object of another class (IoU at least 0.5)"),
    "Loc": ("place", "a detection of the right class that fits its object badly (IoU 0.1 to 0.5)"),
    "Both": ("class and place", "a detection that fits an object of another class badly (IoU 0.1 to 0.5)"),
    "Dupe": ("duplicate", "a detection of an object that a better detection has found"),
    "Bkg": ("background", "a detection where no object is (IoU below 0.1)"),
    "Miss": ("missed", "an object without a detection, and without an error of class or place"),
}
LINES = {"-": "solid", "--": "dashed", ":": "dotted"}  # matplotlib's line style -> that of CSS
MAX_CLASSES = 300  # rows of a table
DEFAULT_SCORE = 0.5


def learning_section(log: Sequence[Mapping[str, Any]]) -> Section:
    """Return the learning curves of a training run."""
    section = Section("Learning curves")
    if not any("lr" in entry for entry in log):
        section.missing.append("The folder lacks the log of a training. Evaluations do not write one.")
        return section
    if not any(name.startswith("val_") for entry in log for name in entry):
        section.missing.append("The run did not log validation losses; train with val_loss=true to see them here.")
    if all("lr" in entry for entry in log):
        section.missing.append("The run has not been evaluated yet, and curves of metrics need an evaluation.")
    section.pictures.append((embed_picture(partial(_learning_curves, log)), "losses, learning rate and metrics"))
    return section


def class_section(details: Details, missing: str) -> Section:
    """Return tables of AP by class and size of the objects."""
    section = Section("AP by class and size")
    for kind, content in details.items():
        rows = sorted(
            zip(content["classes"], class_labels(content["classes"])),
            key=lambda pair: -1 if pair[0]["AP"] is None else pair[0]["AP"],
            reverse=True,
        )
        caption = KIND_NAMES[kind]
        if len(rows) > MAX_CLASSES:
            caption += f": the {MAX_CLASSES // 2} best and the {MAX_CLASSES // 2} worst of {len(rows)} classes"
            rows = [*rows[: MAX_CLASSES // 2], *rows[-MAX_CLASSES // 2 :]]
        headers = ["class", "objects", "AP", "AP50", "AP75", "small", "medium", "large", "AR"]
        headers += ["best score", "precision", "recall", "F1"]
        section.tables.append((caption, headers, [_class_row(row, label) for row, label in rows]))
    if details:
        section.texts.append(
            "Small objects have an area below 32² pixels, large ones above 96². The best score is the threshold with "
            "the largest F1 at IoU 0.5; precision, recall and F1 are those of the detections that reach it."
        )
    return _or_missing(section, details, missing)


def curve_section(details: Details, missing: str) -> Section:
    """Return the PR curves."""
    section = Section("Precision and recall")
    if details:
        section.pictures.append((embed_picture(lambda file: draw_pr_curves(file, details)), "PR curves"))
    return _or_missing(section, details, missing)


def error_section(details: Details, missing: str) -> Section:
    """Return TIDE's types of errors."""
    section = Section("Error types")
    for kind, content in details.items():
        deltas, counts = content["errors"]["delta_ap"], content["errors"]["counts"]
        largest = max([deltas[name] for name in ERRORS] + [1e-9])
        rows = [
            Bar(name, meaning, [points(deltas[key]), str(counts[key])], round(100 * max(deltas[key], 0) / largest, 1))
            for key, (name, meaning) in ERRORS.items()
        ]
        section.bars.append((KIND_NAMES[kind], ["error", "meaning", "AP50 lost", "count"], rows))
    if details:
        section.texts.append(
            "TIDE (arxiv.org/abs/2008.08115) at IoU 0.5: how many points of AP50 the model would gain if one type of "
            "error did not occur. Counts include detections of low scores."
        )
    return _or_missing(section, details, missing)


def confusion_section(details: Details, missing: str) -> Section:
    """Return the confusion matrices."""
    section = Section("Confusion matrix")
    if details:
        picture = embed_picture(lambda file: draw_confusion(file, details))
        section.pictures.append((picture, "rows are classes of objects, columns classes of detections"))
        section.texts.append(
            "A row is the class of an object, a column the class of its detection. The last column counts missed "
            "objects, the last row detections of nothing."
        )
    return _or_missing(section, details, missing)


def calibration_section(details: Details, missing: str) -> Section:
    """Return the reliability diagrams."""
    section = Section("Score calibration")
    if details:
        section.pictures.append((embed_picture(lambda file: draw_calibration(file, details)), "reliability"))
        section.texts.append(
            "Of detections with a score of 0.8, 80 % should be true. The expected calibration error is the mean "
            "distance from that over all detections; most have low scores, so those decide it."
        )
    return _or_missing(section, details, missing)


def worst_section(
    detections: tuple[CocoEvaluator, CocoDataset] | None, reason: str, details: Details, max_bytes: int, count: int
) -> Section:
    """Return pictures of the images with the lowest F1.

    Args:
        detections: evaluator and dataset; None if there are none.
        reason: why there are none.
        details: for the score threshold.
        max_bytes: that the pictures may have together.
        count: of pictures.
    """
    section = Section("Worst images")
    if detections is None:
        section.missing.append(f"Pictures are missing: {reason}.")
        return section
    evaluator, dataset = detections
    kind = evaluator.kinds[-1]
    score = details.get(kind, {}).get("overall", {}).get("threshold")
    min_score = DEFAULT_SCORE if score is None else score
    verdicts = judge(evaluator, kind, min_score)
    chosen = worst_images(verdicts, count)
    for sample in judged_samples(evaluator, dataset, verdicts, chosen):
        draw = partial(_draw_sample, sample, evaluator.category_names, min_score)
        uri = embed_picture(draw, "jpeg")
        max_bytes -= len(uri)
        if max_bytes < 0:
            section.missing.append("Further pictures are left out to keep the file small.")
            break
        section.samples.append((uri, f"ground truth and detections of {sample.name}"))
    if section.samples:
        section.legend = [(meaning, colour, LINES[line]) for colour, line, meaning in STYLES.values()]
        section.texts.append(
            f"The images with the lowest F1 of {KIND_NAMES[kind]} at IoU 0.5 and score ≥ {min_score:.3g}; "
            "left the ground truth, right the detections."
        )
    elif not chosen:
        section.texts.append("No image has an error.")
    elif not section.missing:
        section.missing.append("The images cannot be read.")
    return section


def _learning_curves(log: Sequence[Mapping[str, Any]], file: io.BytesIO) -> None:
    save_learning_curves(file, log)


def _draw_sample(sample: Any, names: Sequence[str], min_score: float, file: io.BytesIO) -> None:
    save_judged_samples(file, [sample], names, min_score, columns=1, format="jpeg", has_legend=False)


def _class_row(row: Mapping[str, Any], label: str) -> list[str]:
    values = [points(row[name]) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")]
    threshold = "-" if row["threshold"] is None else f"{row['threshold']:.2f}"
    shares = [points(row[name]) for name in ("precision", "recall", "F1")]
    return [label, str(row["objects"]), *values, threshold, *shares]


def _or_missing(section: Section, details: Details, missing: str) -> Section:
    if not details:
        section.missing.append(missing)
    return section
