"""Tables of the training and validation data for the terminal. Text is never read as markup."""

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from ..errors import shorten
from .coco import CocoDataset
from .summary import DatasetSummary, summarise_dataset

MAX_CLASSES, MOST_FREQUENT, RAREST = 20, 10, 5
NAME_LENGTH = 40
SIZE_NAMES = ("small (< 32 x 32 px)", "medium", "large (>= 96 x 96 px)")


def data_tables(training: CocoDataset, validation: CocoDataset) -> Group:
    """Return a table of images and objects, and one of the classes: of more than 20 the most frequent and the rarest.

    Args:
        training, validation: the datasets, which have the same labels. The numbers are those of the images that they
            use, on disk.
    """
    summaries = (summarise_dataset(training), summarise_dataset(validation))
    return Group(_dataset_table(summaries), _class_table(summaries, training.names))


def _dataset_table(summaries: Sequence[DatasetSummary]) -> Table:
    table = _table("data")
    rows = {
        "images": [f"{summary.images:,}" for summary in summaries],
        "without objects": [f"{summary.empty:,}" for summary in summaries],
        "left out": [f"{summary.left_out:,}" for summary in summaries],
        "image width (px)": [_range(summary.sides[:, 0]) for summary in summaries],
        "image height (px)": [_range(summary.sides[:, 1]) for summary in summaries],
        "objects": [f"{summary.objects.sum():,}" for summary in summaries],
        **{
            f"  {name}": [_share(summary.objects[:, index].sum(), summary.objects.sum()) for summary in summaries]
            for index, name in enumerate(SIZE_NAMES)
        },
        "crowd regions": [f"{summary.crowds:,}" for summary in summaries],
    }
    for name, cells in rows.items():
        if set(cells) != {"0"}:
            table.add_row(name, *cells)
    return table


def _class_table(summaries: Sequence[DatasetSummary], names: Sequence[str]) -> Table:
    counts = np.stack([summary.objects.sum(1) for summary in summaries], 1)  # classes x 2
    order = np.argsort(-counts[:, 0], kind="stable").tolist()
    is_short = len(order) <= MAX_CLASSES
    table = _table("objects per class")
    for label in order if is_short else order[:MOST_FREQUENT]:
        _add_class(table, names[label], counts[label].tolist())
    if not is_short:
        between = order[MOST_FREQUENT:-RAREST]
        low, high = counts[between[-1]].tolist()[0], counts[between[0]].tolist()[0]
        table.add_row(f"... {len(between)} classes between", f"{low:,} to {high:,}", "")
        for label in order[-RAREST:]:
            _add_class(table, names[label], counts[label].tolist())
    missing = int((counts[:, 0] == 0).sum())
    if missing:
        table.add_row(f"classes without a training object: {missing}", "", "")
    return table


def _add_class(table: Table, name: str, counts: Sequence[int]) -> None:
    table.add_row(Text(shorten(name, NAME_LENGTH)), *(f"{count:,}" for count in counts))


def _table(title: str) -> Table:
    columns = [Column(title), Column("training", justify="right"), Column("validation", justify="right")]
    return Table(*columns, box=SIMPLE_HEAD)


def _range(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}, median {np.median(values):.0f}"


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"
