"""Numbers of a dataset, against counts in plain loops, and the tables of them."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from detbackbones.data.annotations import Annotations, read_annotations
from detbackbones.data.coco import CocoDataset
from detbackbones.data.problems import Report
from detbackbones.data.summary import SIZES, summarise_classes, summarise_dataset
from detbackbones.data.summary_tables import data_tables


def made(images, objects, classes, seed=0, crowd_share=0.2):
    """Return annotations with random objects; some images stay empty, and the ids are mixed."""
    random = np.random.default_rng(seed)
    ids = [3 * label + 1 for label in range(classes)]
    chosen = {
        "image_id": random.integers(0, images, objects).tolist(),
        "category_id": random.choice(ids, objects).tolist(),
        "area": np.exp(random.normal(7.5, 2, objects)).tolist(),
        "iscrowd": (random.random(objects) < crowd_share).astype(int).tolist(),
    }
    entries = [dict(zip(chosen, values)) for values in zip(*chosen.values())]
    infos = [
        {"id": index, "file_name": f"{index}.jpg", "width": int(width), "height": int(height)}
        for index, (width, height) in enumerate(random.integers(50, 640, (images, 2)))
    ]
    groups: dict = {}
    for entry in entries:
        groups.setdefault(entry["image_id"], []).append(entry)
    content = {"images": infos, "annotations": entries, "categories": []}
    names = [f"class {label}" for label in range(classes)]
    return Annotations(Path("a"), Path("b"), content, ids, names, groups, set(), {}, Report(Path("a")))


def size(area):
    return "small" if area < 1024 else "medium" if area < 9216 else "large"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("keep_empty", [True, False])
def test_numbers_equal_those_of_a_loop(training, keep_empty):
    annotations = made(images=80, objects=100, classes=4)
    dataset = CocoDataset(annotations, training=training, keep_empty=keep_empty)
    summary = summarise_dataset(dataset)
    counts: Counter = Counter()
    for image in dataset.images:
        entries = annotations.objects.get(image["id"], [])
        counts["empty"] += not entries
        for entry in entries:
            label = dataset.category_ids.index(entry["category_id"])
            counts["crowds" if entry["iscrowd"] else (label, size(entry["area"]))] += 1
    assert (summary.images, summary.left_out) == (len(dataset), 80 - len(dataset))
    assert (summary.empty, summary.crowds) == (counts["empty"], counts["crowds"])
    assert summary.objects.tolist() == [[counts[label, size] for size in SIZES] for label in range(4)]
    assert summary.sides.tolist() == [[image["width"], image["height"]] for image in dataset.images]
    assert training == (summary.left_out > 0)


def test_sizes_are_those_of_cocos_metrics():
    annotations = made(images=1, objects=4, classes=1, crowd_share=0)
    for entry, area in zip(annotations.content["annotations"], (1023.9, 1024, 9215.9, 9216)):
        entry["area"] = area
    assert summarise_dataset(CocoDataset(annotations, training=True)).objects.tolist() == [[1, 2, 1]]
    (summary,) = summarise_classes(annotations)
    assert summary.sizes == {"small": 1, "medium": 2, "large": 1}


def test_labels_are_those_of_the_dataset():
    annotations = made(images=50, objects=100, classes=3)
    dataset = CocoDataset(annotations, training=False)
    before = summarise_dataset(dataset).objects
    dataset.reorder_classes(dataset.names[::-1])
    assert summarise_dataset(dataset).objects.tolist() == before[::-1].tolist()


def test_classes_are_summarised_in_the_order_of_the_labels(write_coco):
    cat, dog = summarise_classes(read_annotations(*write_coco()))
    assert (cat.name, cat.objects, cat.crowds, cat.images, dict(+cat.sizes)) == ("cat", 0, 1, {9}, {})
    assert (dog.name, dog.objects, dog.crowds, dog.images, dict(+dog.sizes)) == ("dog", 1, 0, {9}, {"small": 1})


# --- tables


def text(training, validation=None):
    """Return the printed tables, with single spaces."""
    training = CocoDataset(training, training=True)
    validation = training if validation is None else CocoDataset(validation, training=False)
    console = Console(width=200, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(data_tables(training, validation))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_the_table_of_a_small_dataset(write_coco):
    annotations = read_annotations(*write_coco())
    assert [line for line in text(annotations, annotations) if line and "─" not in line] == [
        "data training validation",
        "images 2 2",
        "without objects 1 1",
        "image width (px) 60 60",
        "image height (px) 40 40",
        "objects 1 1",
        "small (< 32 x 32 px) 100.0% 100.0%",
        "medium 0.0% 0.0%",
        "large (>= 96 x 96 px) 0.0% 0.0%",
        "crowd regions 1 1",
        "objects per class training validation",
        "dog 1 1",
        "cat 0 0",
        "classes without a training object: 1",
    ]


def test_of_many_classes_the_most_frequent_and_the_rarest_have_rows():
    annotations = made(images=10, objects=1275, classes=50, crowd_share=0)
    for index, entry in enumerate(annotations.content["annotations"]):
        label = int((np.sqrt(8 * index + 1) - 1) // 2)  # class k gets k + 1 objects
        entry["category_id"] = annotations.category_ids[label]
    rows = text(annotations)
    first = rows.index("class 49 50 50")
    assert rows[first : first + 16] == [
        *(f"class {k} {k + 1} {k + 1}" for k in range(49, 39, -1)),
        "... 35 classes between 6 to 40",
        *(f"class {k} {k + 1} {k + 1}" for k in range(4, -1, -1)),
    ]


@pytest.mark.parametrize("classes", [1, 20, 21, 1203])
def test_the_table_has_at_most_20_classes(classes):
    rows = [line for line in text(made(images=10, objects=3000, classes=classes)) if line.startswith("class ")]
    assert len(rows) == min(classes, 15 if classes > 20 else 20)


def test_a_validation_split_without_objects():
    rows = text(made(5, 20, 2, crowd_share=0), made(5, 0, 2))
    assert "medium" in " ".join(rows)
    assert any(row.startswith("small") and row.endswith(" -") for row in rows)


def test_rows_fit_a_terminal_of_80_columns():
    dataset = CocoDataset(made(images=1000, objects=5000, classes=30), training=True)
    for image, (width, height) in zip(dataset.images, [(1000, 1000), (6000, 6000)]):
        image.update(width=width, height=height)
    texts = []
    for width in (80, 200):
        console = Console(width=width)
        with console.capture() as capture:
            console.print(data_tables(dataset, dataset))
        texts.append([" ".join(line.replace("─", "").split()) for line in capture.get().splitlines()])
    assert texts[0] == texts[1]


def test_names_are_plain_text():
    names = ["[red]x[/red]", "[/]", ":cat:", "a\nb\x1b]0;c\x07", "\ud800", "猫" * 200, ""]
    annotations = made(images=10, objects=100, classes=len(names))
    annotations.names[:] = names
    printed = "\n".join(text(annotations))
    for part in ("[red]x[/red]", "[/]", ":cat:", r"a\nb\x1b]0;c\x07", r"\ud800", "猫..."):
        assert part in printed or part.replace("...", "") in printed


def test_a_quarter_of_coco_takes_less_than_a_quarter_of_a_second():
    dataset = CocoDataset(made(images=29_572, objects=215_000, classes=80, crowd_share=0.01), training=True)
    validation = CocoDataset(made(images=1250, objects=9195, classes=80), training=False)
    start = time.process_time()
    data_tables(dataset, validation)
    assert time.process_time() - start < 0.25
