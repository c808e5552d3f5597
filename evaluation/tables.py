"""Tables of metrics for the terminal. Text is never read as markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from ..errors import shorten
from .coco import KINDS

CLASS_COLUMNS = {  # header -> key of a row of `Details.classes`
    "objects": "objects",
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AR": "AR",
    "score": "threshold",
    "P": "precision",
    "R": "recall",
    "F1": "F1",
}
ERRORS = {  # TIDE's name -> header
    "Cls": "class",
    "Loc": "box",
    "Both": "both",
    "Dupe": "double",
    "Bkg": "background",
    "Miss": "missed",
}
MAX_ROWS, BEST_AND_WORST = 20, 10


def coco_table(metrics: Mapping[str, float]) -> Table:
    """Return a table with a row per kind, in points (100 is perfect); a dash for a metric without objects.

    Args:
        metrics: the metrics of `CocoEvaluator.compute`; others are left out.
    """
    rows = {kind: [key for key in metrics if key.startswith(f"{kind}/")] for kind in KINDS}
    rows = {kind: keys for kind, keys in rows.items() if keys}
    names = [key.partition("/")[2] for key in next(iter(rows.values()), [])]
    table = _table("COCO", names)
    for kind, keys in rows.items():
        table.add_row(kind, *(points(metrics[key]) for key in keys))
    return table


def class_table(kind: str, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Table:
    """Return a table of the classes that have objects, best first; of more than 20 the 10 best and the 10 worst.

    Columns "score", "P", "R" and "F1" are the score threshold with the best F1 at IoU 0.5, and what it gives.

    Args:
        kind: "bbox" or "segm".
        rows: `Details.classes`.
        labels: name per class.
    """
    present = [(row, label) for row, label in zip(rows, labels, strict=True) if row["AP"] is not None]
    present.sort(key=lambda pair: -pair[0]["AP"])
    table = _table(f"{kind} per class", CLASS_COLUMNS)
    is_long = len(present) > MAX_ROWS
    for row, label in present[:BEST_AND_WORST] if is_long else present:
        _add_class(table, row, label)
    if is_long:
        table.add_row(f"({len(present) - 2 * BEST_AND_WORST} more)")
        for row, label in present[-BEST_AND_WORST:]:
            _add_class(table, row, label)
    return table


def error_table(errors: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of TIDE's error types: the points of AP50 that a model would gain without each.

    Args:
        errors: kind -> "delta_ap" of `Details.errors`.
    """
    table = _table("AP50 lost to", ERRORS.values())
    for kind, deltas in errors.items():
        table.add_row(kind, *(points(deltas[name]) for name in ERRORS))
    return table


def comparison_table(kind: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return a table of two results files with the difference, in points, and its interval.

    Args:
        kind: "bbox" or "segm".
        rows: of `comparison.compare`.
        names: of the two files.
    """
    table = _table(kind, [*(Text(shorten(name, 24)) for name in names), "difference", "95% interval"])
    for row in rows:
        interval = "-" if row["lower"] is None else f"{100 * row['lower']:+.1f} to {100 * row['upper']:+.1f}"
        difference = "-" if row["difference"] is None else f"{100 * row['difference']:+.1f}"
        table.add_row(row["metric"], points(row["a"]), points(row["b"]), difference, interval)
    return table


def points(value: float | None) -> str:
    """Return a share in points, or a dash for None and for -1, which stand for a missing value."""
    if value is None or value < 0:
        return "-"
    return f"{100 * value:.1f}".replace("100.0", "100")  # a row of 12 must fit 80 characters


def _table(title: str, headers: Any) -> Table:
    columns = [Column(header, justify="right") for header in headers]
    return Table(title, *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits 80 characters


def _add_class(table: Table, row: Mapping[str, Any], label: str) -> None:
    cells = [str(row["objects"]), *(points(row[key]) for key in ("AP", "AP50", "AP75", "AR"))]
    threshold = "-" if row["threshold"] is None else f"{row['threshold']:.2f}"
    table.add_row(
        Text(shorten(label, 24)), *cells, threshold, *(points(row[key]) for key in ("precision", "recall", "F1"))
    )
