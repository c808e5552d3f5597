import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detbackbones.evaluation.coco import METRIC_NAMES, CocoEvaluator, coco_table
from detbackbones.evaluation.rle import encode_masks

BACKENDS = ["faster_coco_eval", "pycocotools"]


def reference(content, results, kind):
    """The 12 numbers straight from pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        scorer = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        scorer.evaluate(), scorer.accumulate(), scorer.summarize()
    return scorer.stats.tolist()


@pytest.fixture(scope="module")
def made_up(coco_tiny):
    """Detections made of val2017's ground truth: jittered, doubled, misnamed, missing, too many, over crowds; tied scores."""
    content = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(coco_tiny / "annotations/instances_val2017.json")
    random = np.random.default_rng(0)
    ids = [c["id"] for c in content["categories"]]
    predictions, crowds = {}, 0
    for number, image in enumerate(content["images"]):
        if number % 7 == 3:
            continue  # no detection at all
        boxes, masks, labels, scores = [], [], [], []
        for entry in coco.imgToAnns[image["id"]]:
            crowds += entry["iscrowd"]
            mask = coco.annToMask(entry)
            for _ in range(60 if number == 5 else random.integers(0, 4)):
                x, y, w, h = np.array(entry["bbox"]) * (1 + random.normal(0, 0.08, 4))
                boxes.append([x, y, x + w, y + h])
                masks.append(np.roll(mask, random.integers(-6, 7, 2), (0, 1)))
                labels.append(entry["category_id"] if random.random() < 0.85 else random.choice(ids))
                scores.append(round(random.random(), 1 if number % 2 else 4))
        shape = (0, image["height"], image["width"])
        predictions[image["id"]] = {
            "boxes": torch.tensor(np.array(boxes).reshape(-1, 4)),
            "scores": torch.tensor(scores), "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros(shape, dtype=torch.bool),
        }  # fmt: skip
    assert crowds and max(len(p["scores"]) for p in predictions.values()) > 100
    return content, predictions


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_pycocotools_to_the_last_digit(made_up, backend):
    content, predictions = made_up
    before = json.dumps(content)
    evaluator = CocoEvaluator(content, backend=backend)
    evaluator.update(predictions)
    evaluator.update(dict(list(predictions.items())[:5]))  # an image seen twice counts once
    metrics = evaluator.compute()
    assert json.dumps(content) == before
    for kind in ("bbox", "segm"):
        expected = reference(content, evaluator.results(kind), kind)
        assert list(metrics[kind].values()) == expected
        assert 0.05 < metrics[kind]["AP"] < 0.95 and min(expected) >= 0
    assert metrics["bbox"]["APs"] != metrics["segm"]["APs"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_detected(made_up, backend):
    evaluator = CocoEvaluator(made_up[0], backend=backend)
    assert all(value == 0 for kind in evaluator.compute().values() for value in kind.values())


def one_object(box, segmentation, area):
    return {
        "images": [{"id": 3, "file_name": "a.jpg", "width": 200, "height": 200}],
        "categories": [{"id": 17, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 17, "bbox": box, "segmentation": segmentation,
                         "area": area, "iscrowd": 0}],
    }  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_scored_by_mask_area(backend):
    """A thin diagonal fills a large box with few pixels. A wrong mask of that kind is a small false positive:
    it must not count among the large ones, where its box would put it."""
    content = one_object([0, 0, 150, 150], [[0, 0, 150, 0, 150, 150, 0, 150]], 22500.0)
    mask = torch.zeros(2, 200, 200, dtype=torch.bool)
    mask[0, :150, :150] = True
    steps = torch.arange(150)
    mask[1, steps + 40, steps + 40] = True
    found = {"boxes": torch.tensor([[0.0, 0, 150, 150], [40, 40, 190, 190]]), "scores": torch.tensor([0.5, 0.9]),
             "labels": torch.tensor([17, 17]), "masks": mask}  # fmt: skip
    evaluator = CocoEvaluator(content, backend=backend)
    evaluator.update({3: found})
    metrics = evaluator.compute()
    assert metrics["segm"]["APl"] == pytest.approx(1.0) and metrics["bbox"]["APl"] == pytest.approx(0.5)
    assert metrics["segm"]["AP"] == pytest.approx(0.5)  # by hand: precision 1/2 at every recall
    assert metrics["segm"]["APs"] == -1 and metrics["segm"]["AR1"] == 0 and metrics["segm"]["AR10"] == 1


def test_wrong_input_is_named():
    evaluator = CocoEvaluator(one_object([0, 0, 9, 9], [[0, 0, 9, 0, 9, 9]], 40.5))
    box = {"boxes": torch.zeros(1, 4), "scores": torch.ones(1), "labels": torch.tensor([17])}
    with pytest.raises(ValueError, match="image has id 4"):
        evaluator.update({4: box})
    with pytest.raises(ValueError, match="category has id 1 "):
        evaluator.update({3: dict(box, labels=torch.tensor([1]))})
    with pytest.raises(ValueError, match="masks are scored"):
        evaluator.update({3: box})


def test_table_has_all_numbers():
    table = coco_table({"bbox": dict.fromkeys(METRIC_NAMES, 0.5)})
    assert [c.header for c in table.columns][1:] == list(METRIC_NAMES)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_rle_is_pycocotools_own(density):
    """Noise, rectangles inside and at every border, whole columns that run into each other, an empty and a full mask."""
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(9, 23, 17, generator=random) < density
    for mask, (rows, columns) in zip(masks, [((0, 23), (3, 9)), ((0, 23), (0, 17)), ((5, 9), (0, 2)), ((20, 23), (15, 17)), ((4, 6), (7, 8))]):
        keep = torch.zeros_like(mask)
        keep[slice(*rows), slice(*columns)] = True
        mask &= keep
    planes = np.asfortranarray(masks.numpy().astype(np.uint8).transpose(1, 2, 0))
    expected = [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in coco_mask.encode(planes)]
    assert encode_masks(masks) == expected
    assert encode_masks(masks[:0]) == []
