"""The ground truth, given as detections, scores exactly 1.0; however ids, order and masks are written."""

import json

import numpy as np
import pytest
from coco_problems import fill, random_polygons, rename_ids, true_detections
from pycocotools import mask as coco_mask

from detbackbones.evaluation.coco import BACKENDS, KINDS, CocoEvaluator
from detbackbones.evaluation.results import add_results

both_backends = pytest.mark.parametrize("backend", BACKENDS)
RENAMED = {
    "as they are": lambda i: i,
    "from 0": lambda i: i - 1,
    "negative": lambda i: -i,
    "timestamps": lambda i: 1732579200000000000 + i,
    "hashes": lambda i: 2**64 + 7919 * i,
    "text": lambda i: f"{i:012d}.jpg",
}


def spell_polygons(segmentation, size):
    return segmentation


def spell_compressed(segmentation, size):
    rle = coco_mask.frPyObjects(segmentation, *size)
    rle = coco_mask.merge(rle) if isinstance(rle, list) else rle
    return {"size": list(size), "counts": rle["counts"].decode()}


def spell_uncompressed(segmentation, size):
    rle = spell_compressed(segmentation, size)
    pixels = coco_mask.decode(rle).T.ravel()
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return {"size": list(size), "counts": np.diff([0, *edges, pixels.size]).tolist()}


SPELLINGS = (spell_polygons, spell_compressed, spell_uncompressed)


def spell(content, spelling):
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for entry in content["annotations"]:
        entry["segmentation"] = spelling(entry["segmentation"], sizes[entry["image_id"]])
    return content


def assert_perfect(metrics):
    for kind in KINDS:
        assert [metrics[f"{kind}/{name}"] for name in ("AP", "AP50", "AP75", "AR100")] == [1.0] * 4, kind


@both_backends
@pytest.mark.parametrize("ids", RENAMED)
def test_whatever_the_ids(ids, backend):
    content = random_polygons(0)
    rename_ids(content, RENAMED[ids])
    assert_perfect(fill(CocoEvaluator(content, backend=backend), true_detections(content)).compute())


@both_backends
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_whatever_the_spelling_of_masks(spelling, backend):
    content = random_polygons(1)
    predictions = true_detections(content)
    assert_perfect(fill(CocoEvaluator(spell(content, spelling), backend=backend), predictions).compute())


@both_backends
def test_whatever_the_order(backend):
    content = random_polygons(2)
    predictions = true_detections(content)
    for section in ("images", "annotations", "categories"):
        np.random.default_rng(0).shuffle(content[section])
    assert_perfect(fill(CocoEvaluator(content, backend=backend), predictions).compute())


@both_backends
def test_classes_with_one_object(backend):
    """pycocotools itself gives 0.9999999999999998."""
    content = random_polygons(3, images=1, objects=4)
    for entry, category in zip(content["annotations"], (1, 2, 3, 4), strict=False):
        entry["category_id"] = category
    assert_perfect(fill(CocoEvaluator(content, backend=backend), true_detections(content)).compute())


@both_backends
def test_an_object_per_detection_that_counts(backend):
    """100 objects of one class in one image, and with max_dets=150 all of 130."""
    content = random_polygons(4, images=1, objects=130)
    for entry in content["annotations"]:
        entry["category_id"] = 1
    del content["annotations"][-1]  # the crowd region
    evaluator = fill(CocoEvaluator(content, ("bbox",), backend, max_dets=150), true_detections(content))
    assert evaluator.compute()["bbox/AP"] == 1.0
    content["annotations"] = content["annotations"][:100]
    evaluator = fill(CocoEvaluator(content, ("bbox",), backend), true_detections(content))
    assert evaluator.compute()["bbox/AP"] == 1.0


@pytest.mark.parametrize("ids", RENAMED)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_as_a_results_file(spelling, ids):
    content = random_polygons(5)
    rename_ids(content, RENAMED[ids])
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1}
        for entry in spell(json.loads(json.dumps(content)), spelling)["annotations"]
        if not entry["iscrowd"]
    ]
    evaluator = CocoEvaluator(content)
    add_results(evaluator, json.loads(json.dumps(results)), "results.json")
    assert_perfect(evaluator.compute())


@both_backends
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations(coco_tiny, split, backend):
    content = json.loads((coco_tiny / f"annotations/instances_{split}2017.json").read_text())
    assert_perfect(fill(CocoEvaluator(content, backend=backend), true_detections(content)).compute())


@both_backends
@pytest.mark.parametrize("score", ["high", 0.3, None, [1]])
def test_a_score_in_the_ground_truth_has_no_meaning(score, backend):
    content = random_polygons(3)
    predictions = true_detections(content)
    for entry in content["annotations"]:
        entry["score"] = score
    assert_perfect(fill(CocoEvaluator(content, backend=backend), predictions).compute())
