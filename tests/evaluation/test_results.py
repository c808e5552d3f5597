import json
import re

import pytest
from coco_problems import (
    fill,
    pycocotools_stats,
    random_polygons,
    random_problem,
    rename_ids,
    true_detections,
)

from detbackbones.errors import InputError
from detbackbones.evaluation.coco import BACKENDS, KINDS, CocoEvaluator
from detbackbones.evaluation.results import add_results, kinds_of, read_results

IMAGE = {"id": 3, "height": 20, "width": 30}
CONTENT = {"images": [IMAGE], "categories": [{"id": 17, "name": "cat"}], "annotations": []}
RLE = {"size": [20, 30], "counts": [100, 300, 200]}
ENTRY = {"image_id": 3, "category_id": 17, "score": 0.5, "bbox": [1, 2, 3, 4.5], "segmentation": RLE}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kinds", [KINDS, ("bbox",), ("segm",)])
@pytest.mark.parametrize("rename", [lambda i: i, lambda i: -i, lambda i: f"{i}"])
def test_written_results_score_the_same(tmp_path, kinds, rename, backend):
    content, predictions = random_problem(2)
    renamed = rename_ids(content, rename, predictions)
    first = fill(CocoEvaluator(content, kinds, backend), renamed)
    entries = read_results(write(tmp_path / "results.json", first.results()))
    assert kinds_of(entries, "results.json") == kinds
    second = CocoEvaluator(content, kinds, backend)
    add_results(second, entries, "results.json")
    assert second.compute() == first.compute()


@pytest.mark.parametrize("kind", KINDS)
def test_pycocotools_scores_written_results_the_same(tmp_path, kind):
    content, predictions = random_problem(3)
    evaluator = fill(CocoEvaluator(content), predictions)
    path = write(tmp_path / "results.json", evaluator.results(kind))
    expected = pycocotools_stats(content, json.loads(path.read_text()), kind)
    metrics = evaluator.compute()
    actual = [metrics[f"{kind}/{name}"] for name in evaluator.metric_names]
    assert actual == pytest.approx(expected, rel=0, abs=1e-12)


def test_masks_of_entries_with_boxes_are_scored_by_their_own_area(tmp_path):
    """pycocotools takes the areas of the boxes, which changes APs, APm and APl alone."""
    content, predictions = random_problem(3)
    evaluator = fill(CocoEvaluator(content), predictions)
    path = write(tmp_path / "results.json", evaluator.results())
    again = CocoEvaluator(content)
    add_results(again, read_results(path), "results.json")
    assert again.compute() == evaluator.compute()
    stats = pycocotools_stats(content, evaluator.results(), "segm")
    metrics = [evaluator.compute()[f"segm/{name}"] for name in evaluator.metric_names]
    differing = {i for i, pair in enumerate(zip(metrics, stats, strict=True)) if abs(pair[0] - pair[1]) > 1e-12}
    assert differing
    assert differing <= {3, 4, 5}


def test_polygons_and_the_masks_of_their_pixels_score_the_same():
    content = random_polygons(6)
    pixels = fill(CocoEvaluator(content), true_detections(content))
    polygons = CocoEvaluator(content)
    entries = [entry for entry in pixels.results()]
    truth = {entry["image_id"]: [] for entry in content["annotations"]}
    for entry in content["annotations"]:
        if not entry["iscrowd"]:
            truth[entry["image_id"]].append(entry["segmentation"])
    for entry in entries:
        entry["segmentation"] = truth[entry["image_id"]].pop(0)
    add_results(polygons, entries, "results.json")
    for (_, actual), (_, expected) in zip(polygons.predictions.values(), pixels.predictions.values(), strict=True):
        assert actual == expected


def test_whole_numbers_may_be_floats():
    evaluator = CocoEvaluator(CONTENT)
    add_results(evaluator, [ENTRY | {"image_id": 3.0, "category_id": 17.0}], "results.json")
    assert evaluator.results("bbox") == [{"image_id": 3, "category_id": 17, "score": 0.5, "bbox": [1, 2, 3, 4.5]}]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"image_id": 4}, "image_id 4 is not in the annotation file, which has 3"),
        ({"image_id": "3"}, "image_id '3' is not"),
        ({"image_id": [3]}, "image_id .* is not"),
        ({"image_id": None}, "image_id None is not"),
        ({"category_id": 1}, "category_id 1 is not in the annotation file, which has 17"),
        ({"score": float("nan")}, "score must be a finite number, got nan"),
        ({"score": "0.5"}, "score must be"),
        ({"score": True}, "score must be"),
        ({"score": 10**400}, "score must be"),
        ({"bbox": [1, 2, 3]}, "bbox must be four"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bbox must be four finite"),
        ({"bbox": ["1", 2, 3, 4]}, "bbox must be four"),
        ({"bbox": {"x": 1}}, "bbox must be four"),
        ({"bbox": [10, 10, -2, 5]}, "negative width or height"),
        ({"segmentation": None}, "segmentation is missing"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, "another size"),
        ({"segmentation": {"size": [20, 30], "counts": [100, 300]}}, "do not add up"),
        ({"segmentation": {"size": [20, 30], "counts": [-100, 700]}}, "not negative: -100"),
        ({"segmentation": {"size": [20, 30], "counts": "P1"}}, "do not add up"),
        ({"segmentation": {"size": [20, 30], "counts": "\x01"}}, "RLE"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon of 3 points"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "finite"),
    ],
)
def test_bad_entries_are_named(change, message):
    evaluator = CocoEvaluator(CONTENT)
    with pytest.raises(InputError, match=f"results.json: entry 1: .*{message}") as caught:
        add_results(evaluator, [ENTRY, ENTRY | change], "results.json")
    assert "\n" not in str(caught.value)
    assert not evaluator.predictions


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox", "segmentation"])
def test_missing_keys_are_named(key):
    with pytest.raises(InputError, match=f"entry 0: {key}"):
        add_results(CocoEvaluator(CONTENT), [{k: v for k, v in ENTRY.items() if k != key}], "results.json")


def test_normalised_boxes_are_recognised():
    with pytest.raises(InputError, match="look normalised"):
        add_results(CocoEvaluator(CONTENT, ("bbox",)), [ENTRY | {"bbox": [0.1, 0.2, 0.5, 0.8]}] * 2, "results.json")


@pytest.mark.parametrize(
    "content,message",
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"annotations": []}', "must be a list of detections, got a dict with .*annotations"),
        (b"3", "must be a list of detections, got 3"),
        (b"[[1]]", "entry 0 must be a dict"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_results(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_results(tmp_path / "results.json")
    with pytest.raises(InputError, match=re.escape(tmp_path.name)):
        read_results(tmp_path)


def test_no_detections():
    evaluator = CocoEvaluator(random_problem(0)[0], ("bbox",))
    add_results(evaluator, [], "results.json")
    assert kinds_of([], "results.json") == ("bbox",)
    assert evaluator.compute()["bbox/AP"] == 0
