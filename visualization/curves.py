"""Draw precision-recall curves and confusion matrices. Class names are plain text, never formulas."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure

from ..errors import shorten
from .figures import FONT_SIZE, LINE_COLOURS, PLAIN, save_figure

MEAN_STYLES = {"IoU 0.50": "-", "IoU 0.75": "--", "IoU 0.50:0.95": ":"}
MAX_NAMED_CURVES = 10
MAX_CONFUSED_CLASSES = 80  # COCO's; the picture grows with them
MAX_CLASSES_WITH_NUMBERS = 12
NAME_LENGTH = 20
BACKGROUND = "(background)"


def save_pr_curves(
    target: Path | BinaryIO, panels: Sequence[tuple[str, np.ndarray, np.ndarray, Sequence[str]]]
) -> None:
    """Write a PNG with precision against recall, a panel per kind.

    Black lines are means over the classes; the thin lines are classes at IoU 0.50, named and coloured if there are at
    most 10.

    Args:
        target: the PNG file.
        panels: per panel its title, the points of recall R, precision classes x 3 x R (at IoU 0.50, at 0.75, mean over
            0.50 to 0.95; -1 for a class without objects), and a name per class.
    """
    figure = Figure(figsize=(5.2 * len(panels), 3.6), dpi=130, layout="constrained")
    for axis, (title, recall, precision, names) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels):
        present = np.flatnonzero(precision.min((1, 2)) > -1).tolist()
        _draw_curves(axis, recall, precision[present], [names[index] for index in present])
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        axis.set_xlabel("recall", fontsize=FONT_SIZE)
        axis.set_ylabel("precision", fontsize=FONT_SIZE)
        axis.tick_params(labelsize=FONT_SIZE)
        axis.set_title(f"{title}, classes at IoU 0.50", fontsize=FONT_SIZE + 1)
        axis.grid(color="0.9")
    save_figure(figure, target)


def save_confusion_matrices(target: Path | BinaryIO, panels: Sequence[tuple[str, np.ndarray, Sequence[str]]]) -> None:
    """Write a PNG with a confusion matrix per panel; colour is the share of an object's class.

    Of more than 80 classes, those with the most objects are drawn.

    Args:
        target: the PNG file.
        panels: per panel its title, the (classes + 1) x (classes + 1) counts (row: class of the object, column: class
            of its detection, background last), and a name per class.
    """
    shown = [_largest_classes(matrix) for _, matrix, _ in panels]
    side = 0.16 * max(map(len, shown)) + 2.8  # inches
    # constrained layout leaves too little room above panels whose squares decide their height
    figure = Figure(figsize=(side * len(panels), side + 0.4), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False).flat
    for axis, classes, (title, matrix, names) in zip(axes, shown, panels):
        labels = [shorten(name, NAME_LENGTH) for name in [*names, BACKGROUND]]
        labels = [labels[index] for index in classes]
        counts = matrix[np.ix_(classes, classes)]
        shares = counts / np.maximum(matrix[classes].sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        font = {"fontsize": FONT_SIZE - 1, **PLAIN}
        axis.set_xticks(range(len(classes)), labels, rotation=90, **font)
        axis.set_yticks(range(len(classes)), labels, **font)
        if len(classes) <= MAX_CLASSES_WITH_NUMBERS:
            _write_counts(axis, counts, shares)
        rest = "" if len(classes) == len(matrix) else f", the {len(classes) - 1} classes with most objects"
        axis.set_title(f"{title}{rest}", fontsize=FONT_SIZE)
        axis.set_xlabel("detection", fontsize=FONT_SIZE)
        axis.set_ylabel("object (colour: share of its row)", fontsize=FONT_SIZE)
    save_figure(figure, target)


def _draw_curves(axis: Any, recall: np.ndarray, precision: np.ndarray, names: Sequence[str]) -> None:
    if not names:
        return
    is_named = len(names) <= MAX_NAMED_CURVES
    handles, labels = [], []
    for index, (curve, name) in enumerate(zip(precision[:, 0], names, strict=True)):
        colour = LINE_COLOURS[index] if is_named else "0.75"
        handles += axis.plot(recall, curve, color=colour, linewidth=1 if is_named else 0.5)
        labels.append(f"{shorten(name, NAME_LENGTH)}  {curve.mean():.2f}")
    if not is_named:
        handles, labels = [], []
    for (label, style), curve in zip(MEAN_STYLES.items(), precision.mean(0), strict=True):
        handles += axis.plot(recall, curve, style, color="black", linewidth=1.6)
        labels.append(f"mean, {label}  {curve.mean():.2f}")
    # matplotlib leaves labels that start with "_" out of a legend: the text is set afterwards
    legend = axis.legend(handles, [" "] * len(handles), fontsize=FONT_SIZE, loc="center left", bbox_to_anchor=(1, 0.5))
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, **PLAIN)


def _largest_classes(matrix: np.ndarray) -> list[int]:
    """Return the places of the classes to draw in their order, and of the background."""
    order = np.argsort(-matrix[:-1].sum(1), kind="stable")[:MAX_CONFUSED_CLASSES]
    return [*sorted(order.tolist()), len(matrix) - 1]


def _write_counts(axis: Any, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=FONT_SIZE - 1)
