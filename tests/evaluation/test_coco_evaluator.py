import contextlib
import io
import json

import numpy as np
import pytest
import torch
from coco_problems import fill, pycocotools_stats, random_problem, rename_ids
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detbackbones.evaluation.coco import BACKENDS, KINDS, CocoEvaluator
from detbackbones.evaluation.metrics import metric_names

METRIC_NAMES = metric_names()

both_backends = pytest.mark.parametrize("backend", BACKENDS)


def score(content, predictions, **options):
    evaluator = CocoEvaluator(content, **options)
    fill(evaluator, predictions)
    return evaluator.compute()


def assert_equals_pycocotools(content, predictions, backend):
    evaluator = CocoEvaluator(content, backend=backend)
    fill(evaluator, predictions)
    metrics = evaluator.compute()
    for kind in KINDS:
        expected = pycocotools_stats(content, evaluator.results(kind), kind)
        assert [metrics[f"{kind}/{name}"] for name in METRIC_NAMES] == pytest.approx(expected, rel=0, abs=1e-12)


def one_object(mask_side=150):
    """One square object of category 17 in image 3, of 200 x 200 pixels."""
    polygon = [0, 0, mask_side, 0, mask_side, mask_side, 0, mask_side]
    annotation = {"id": 1, "image_id": 3, "category_id": 17, "area": float(mask_side**2), "iscrowd": 0}
    return {
        "images": [{"id": 3, "file_name": "a.jpg", "width": 200, "height": 200}],
        "categories": [{"id": 17, "name": "cat"}],
        "annotations": [annotation | {"bbox": [0, 0, mask_side, mask_side], "segmentation": [polygon]}],
    }


def one_detection():
    return {"boxes": torch.tensor([[0.0, 0, 150, 150]]), "scores": torch.ones(1), "labels": torch.tensor([17])}


@pytest.mark.parametrize("seed", range(6))
def test_hotcoco_equals_pycocotools(seed):
    assert_equals_pycocotools(*random_problem(seed), "hotcoco")


def test_our_use_of_pycocotools_equals_its_own():
    assert_equals_pycocotools(*random_problem(1), "pycocotools")


def test_only_the_best_100_detections_of_an_image_count():
    content, predictions = random_problem(0)
    predictions[1] = {key: value.repeat(60, *[1] * (value.ndim - 1)) for key, value in predictions[1].items()}
    assert len(predictions[1]["scores"]) > 100
    assert_equals_pycocotools(content, predictions, "hotcoco")


def test_equals_pycocotools_on_real_annotations(coco_tiny):
    """Detections are val2017's own objects, moved a little; ids, polygons and crowds are COCO's."""
    content = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(coco_tiny / "annotations/instances_val2017.json")
    assert any(entry["iscrowd"] for entry in content["annotations"])
    random = np.random.default_rng(0)
    predictions = {}
    for image_id, entries in coco.imgToAnns.items():
        entries = [entry for entry in entries if random.random() < 0.8]
        if entries:
            masks = [np.roll(coco.annToMask(entry), random.integers(-6, 7, 2), (0, 1)) for entry in entries]
            boxes = torch.tensor([entry["bbox"] for entry in entries]) * (1 + 0.05 * torch.randn(len(entries), 4))
            predictions[image_id] = {
                "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                "scores": torch.from_numpy(np.round(random.random(len(entries)), 1)),
                "labels": torch.tensor([entry["category_id"] for entry in entries]),
                "masks": torch.from_numpy(np.stack(masks)).bool(),
            }
    assert_equals_pycocotools(content, predictions, "hotcoco")


@both_backends
@pytest.mark.parametrize(
    "rename", [lambda i: i - 1, lambda i: i - 100, str, lambda i: f"image {i}", lambda i: i + 2**64]
)
def test_any_ids_score_the_same(backend, rename):
    content, predictions = random_problem(1)
    expected = score(content, predictions, backend=backend)
    renamed = rename_ids(content, rename, predictions)
    evaluator = CocoEvaluator(content, backend=backend)
    fill(evaluator, renamed)
    assert evaluator.compute() == expected
    for entry in evaluator.results("bbox"):
        assert entry["image_id"] in renamed
        assert entry["category_id"] in renamed[entry["image_id"]]["labels"]


def test_results_are_the_given_detections():
    content, predictions = random_problem(2)
    evaluator = CocoEvaluator(content)
    fill(evaluator, predictions)
    boxes = [entry["bbox"] for entry in evaluator.results("bbox") if entry["image_id"] == 2]
    expected = predictions[2]["boxes"]
    assert boxes == torch.cat([expected[:, :2], expected[:, 2:] - expected[:, :2]], 1).tolist()
    masks = [entry for entry in evaluator.results("segm") if entry["image_id"] == 2]
    assert np.array_equal([coco_mask.decode(entry["segmentation"]) for entry in masks], predictions[2]["masks"].numpy())
    assert json.loads(json.dumps(masks)) == masks
    assert "bbox" not in masks[0]


def test_an_image_given_again_counts_once():
    content, predictions = random_problem(3)
    evaluator = CocoEvaluator(content)
    fill(evaluator, predictions)
    evaluator.add(2, predictions[2])
    assert evaluator.compute() == score(content, predictions)


def test_merged_evaluators_score_as_one():
    content, predictions = random_problem(3)
    merged, other = CocoEvaluator(content), CocoEvaluator(content)
    fill(other, {image_id: output for image_id, output in predictions.items() if image_id % 2})
    fill(merged, {image_id: output for image_id, output in predictions.items() if not image_id % 2})
    merged.merge(other.predictions)
    assert merged.compute() == score(content, predictions)


def test_labels_may_stand_for_category_ids():
    content, predictions = random_problem(2)
    ids = [3, 1, 4, 2]
    evaluator = CocoEvaluator(content, category_ids=ids)
    labelled = {
        image_id: output | {"labels": torch.tensor([ids.index(label) for label in output["labels"].tolist()])}
        for image_id, output in predictions.items()
    }
    items = [(None, {"image_id": image_id}) for image_id in labelled]
    evaluator.update(items, labelled.values())
    assert evaluator.results() == fill(CocoEvaluator(content), predictions).results()


@both_backends
def test_the_annotation_file_is_not_changed(backend):
    content, predictions = random_problem(0)
    before = json.dumps(content)
    score(content, predictions, backend=backend)
    assert json.dumps(content) == before


@both_backends
def test_nothing_detected(backend):
    assert set(CocoEvaluator(random_problem(0)[0], backend=backend).compute().values()) <= {0.0, -1.0}


@both_backends
def test_boxes_alone_need_no_segmentation(backend):
    content = one_object()
    content["annotations"][0]["segmentation"] = None
    metrics = score(content, {3: one_detection()}, kinds=("bbox",), backend=backend)
    assert list(metrics) == [f"bbox/{name}" for name in METRIC_NAMES]
    assert metrics["bbox/AP"] == pytest.approx(1)
    assert metrics["bbox/APs"] == -1


@both_backends
def test_masks_are_scored_by_mask_area(backend):
    """A thin diagonal has a large box and a small area: a false positive among the small objects, not the large."""
    masks = torch.zeros(2, 200, 200, dtype=torch.bool)
    masks[0, :150, :150] = True
    masks[1].diagonal()[40:190] = True
    output = {
        "boxes": torch.tensor([[0.0, 0, 150, 150], [40, 40, 190, 190]]),
        "scores": torch.tensor([0.5, 0.9]),
        "labels": torch.tensor([17, 17]),
        "masks": masks,
    }
    metrics = score(one_object(), {3: output}, backend=backend)
    assert metrics["segm/APl"] == pytest.approx(1.0)
    assert metrics["bbox/APl"] == pytest.approx(0.5)
    assert metrics["segm/AP"] == pytest.approx(0.5)  # by hand: precision 1/2 at every recall
    assert metrics["segm/AR1"] == 0
    assert metrics["segm/AR10"] == 1


@pytest.mark.parametrize(
    "image_id,change,message",
    [
        (4, {}, "image id 4"),
        (3, {"labels": torch.tensor([1])}, "image 3: category id 1 "),
        (3, {"scores": torch.tensor([float("nan")])}, "image 3: .*finite"),
        (3, {"scores": torch.tensor([0.5, 0.4])}, "image 3: 1 boxes, 2 scores and 1 labels"),
        (3, {"labels": []}, "image 3: 1 boxes, 1 scores and 0 labels"),
        (3, {"boxes": torch.full((1, 4), float("inf"))}, "image 3: .*finite"),
        (3, {}, r"image 3: masks .*\(1, 200, 200\), got None"),
        (3, {"masks": torch.ones(1, 9, 9, dtype=torch.bool)}, r"image 3: masks .*\(1, 200, 200\), got \(1, 9, 9\)"),
    ],
)
def test_wrong_input_is_named(image_id, change, message):
    evaluator = CocoEvaluator(one_object())
    with pytest.raises(ValueError, match=message):
        evaluator.add(image_id, one_detection() | change)
    assert not evaluator.predictions


@pytest.mark.parametrize("options", [{"backend": "cocoeval"}, {"kinds": ("boxes",)}])
def test_unknown_options_are_named(options):
    with pytest.raises(ValueError, match="cocoeval|boxes"):
        CocoEvaluator(one_object(), **options)
