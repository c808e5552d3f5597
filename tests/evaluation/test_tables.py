import io

import pytest
from rich.console import Console

from detbackbones.evaluation.metrics import metric_names
from detbackbones.evaluation.tables import class_table, coco_table, comparison_table, error_table

METRIC_NAMES = metric_names()


def row(index, ap):
    """A row of `Details.classes`."""
    values = dict.fromkeys(("AP50", "AP75", "AR", "threshold", "precision", "recall", "F1"), ap)
    return {"id": index, "name": f"class {index}", "objects": 3, "AP": ap, **values}


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_table_has_a_row_per_kind():
    table = coco_table({"val_loss": 3.0} | {f"segm/{name}": 0.5 for name in METRIC_NAMES} | {"segm/APs": -1.0})
    assert [column.header for column in table.columns][1:] == list(METRIC_NAMES)
    assert [next(column.cells) for column in table.columns][:5] == ["segm", "50.0", "50.0", "50.0", "-"]
    assert table.row_count == 1


@pytest.mark.parametrize("is_lvis", [False, True])
def test_perfect_scores_fit_80_characters(is_lvis):
    names = metric_names(300, is_lvis)
    text = printed(coco_table({f"{kind}/{name}": 1.0 for kind in ("bbox", "segm") for name in names}))
    assert "\u2026" not in text
    assert text.count(" 100 ") == 2 * len(names)


def test_metrics_without_a_kind_give_an_empty_table():
    assert coco_table({"val_loss": 1.0}).row_count == 0


@pytest.mark.parametrize("count,rows", [(1, 1), (20, 20), (21, 21), (1203, 21)])
def test_many_classes_are_the_best_and_the_worst(count, rows):
    classes = [row(index, index / count) for index in range(count)]
    table = class_table("bbox", classes, [entry["name"] for entry in classes])
    assert table.row_count == rows
    text = printed(table)
    assert text.index(f"class {count - 1}") <= text.index("class 0")
    assert (f"({count - 20} more)" in text) == (count > 20)


def test_classes_without_objects_are_left_out():
    assert class_table("bbox", [row(0, None), row(1, 0.5)], ["a", "b"]).row_count == 1


def test_names_are_plain_and_short():
    names = ["[red]a[/red]", "[/b]", "a\nb\x1b[31m", ":smile:", "x" * 300]
    text = printed(class_table("bbox", [row(index, 0.5) for index in range(5)], names))
    for name in names[:2] + names[3:4]:
        assert name in text
    assert "\x1b" not in text
    assert "x" * 30 not in text


def test_errors_have_a_row_per_kind():
    deltas = {name: 0.125 for name in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")}
    assert printed(error_table({"bbox": deltas, "segm": deltas})).count("12.5") == 12


def test_a_comparison_without_an_interval_has_a_dash():
    rows = [
        {"metric": "AP", "a": 0.5, "b": 0.25, "difference": -0.25, "lower": -0.3, "upper": -0.2},
        {"metric": "APs", "a": None, "b": None, "difference": None, "lower": None, "upper": None},
    ]
    text = printed(comparison_table("bbox", rows, ["[b]a", "b"]))
    assert "-30.0 to -20.0" in text
    assert "[b]a" in text
    assert text.splitlines()[-2].split() == ["APs", "-", "-", "-", "-"]
