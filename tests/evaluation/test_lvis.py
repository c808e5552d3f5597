import json

import numpy as np
import pytest
import torch
from coco_problems import fill, random_problem, rename_ids

from detbackbones.errors import InputError
from detbackbones.evaluation.coco import CocoEvaluator


def lvis_problem(seed):
    """A random LVIS file and detections."""
    content, predictions = random_problem(seed, images=8)
    random = np.random.default_rng(seed)
    for entry, frequency in zip(content["categories"], "rcfr", strict=True):
        entry["frequency"] = frequency
    for entry in content["annotations"]:
        del entry["iscrowd"]
    for image in content["images"]:
        present = {entry["category_id"] for entry in content["annotations"] if entry["image_id"] == image["id"]}
        image["neg_category_ids"] = [i for i in range(1, 5) if i not in present and random.random() < 0.5]
        image["not_exhaustive_category_ids"] = [i for i in present if random.random() < 0.4]
    return content, predictions


def two_images():
    """Category 7 (frequent) is in image 1, where not all of its objects are annotated; 8 (rare) is in image 2."""
    objects = [(1, 7), (2, 8)]
    return {
        "images": [
            {"id": 1, "height": 99, "width": 99, "neg_category_ids": [8], "not_exhaustive_category_ids": [7]},
            {"id": 2, "height": 99, "width": 99, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "categories": [
            {"id": 7, "name": "a", "frequency": "f"},
            {"id": 8, "name": "b", "frequency": "r"},
            {"id": 9, "name": "c", "frequency": "c"},
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": [0, 0, 20, 20], "area": 400}
            for i, (image, category) in enumerate(objects)
        ],
    }


def detections(*rows):
    """Detections of (x, score, category), with boxes of 20 x 20 at y = 0."""
    return {
        "boxes": torch.tensor([[x, 0.0, x + 20, 20] for x, _, _ in rows]),
        "scores": torch.tensor([score for _, score, _ in rows]),
        "labels": torch.tensor([category for _, _, category in rows]),
    }


def test_detections_of_unverified_categories_do_not_count():
    evaluator = CocoEvaluator(two_images(), ("bbox",))
    evaluator.add(1, detections((0.0, 0.8, 7), (50.0, 0.9, 7), (50.0, 0.9, 9)))
    evaluator.add(2, detections((0.0, 0.8, 8), (50.0, 0.9, 7), (50.0, 0.9, 9)))
    metrics = evaluator.compute()
    assert metrics["bbox/AP"] == metrics["bbox/APf"] == metrics["bbox/APr"] == 1.0
    assert metrics["bbox/APc"] == -1


def test_detections_of_absent_categories_are_wrong():
    evaluator = CocoEvaluator(two_images(), ("bbox",))
    evaluator.add(1, detections((50.0, 0.9, 8)))
    evaluator.add(2, detections((0.0, 0.8, 8)))
    metrics = evaluator.compute()
    assert metrics["bbox/APr"] == 0.5  # by hand: precision 1/2 at every recall
    assert metrics["bbox/APf"] == 0
    assert metrics["bbox/AP"] == 0.25


def test_the_best_detections_of_an_image_count_whatever_their_category():
    evaluator = CocoEvaluator(two_images(), ("bbox",), max_dets=1)
    evaluator.add(1, detections((0.0, 0.8, 7), (50.0, 0.9, 9)))
    metrics = evaluator.compute()
    assert metrics["bbox/APf"] == 0
    assert "bbox/AR1" in metrics


@pytest.mark.parametrize("rename", [lambda i: i - 1, lambda i: -i, lambda i: f"id {i}"])
def test_any_ids_score_the_same(rename):
    content, predictions = lvis_problem(2)  # of equal scores, the order of images would decide
    expected = fill(CocoEvaluator(content, ("bbox",)), predictions).compute()
    assert expected["bbox/APr"] > 0
    renamed = rename_ids(content, rename, predictions)
    assert fill(CocoEvaluator(content, ("bbox",)), renamed).compute() == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_lvis_api(seed, kind, monkeypatch, tmp_path):
    for name in ("float", "int"):  # lvis 0.5 uses names that numpy 1.24 removed
        monkeypatch.setattr(np, name, {"float": float, "int": int}[name], raising=False)
    lvis = pytest.importorskip("lvis", reason="lvis-api is not installed")
    content, predictions = lvis_problem(seed)
    evaluator = fill(CocoEvaluator(content, (kind,)), predictions)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = lvis.LVIS(str(tmp_path / "truth.json"))
    scorer = lvis.LVISEval(truth, lvis.LVISResults(truth, evaluator.results(kind)), kind)
    scorer.run()
    expected = {f"{kind}/{name.replace('@300', '')}": value for name, value in scorer.get_results().items()}
    metrics = {name.replace("AR300", "AR"): value for name, value in evaluator.compute().items()}
    assert metrics == pytest.approx(expected, rel=0, abs=1e-12)


def test_pycocotools_is_refused():
    with pytest.raises(InputError, match="LVIS .* hotcoco"):
        CocoEvaluator(two_images(), backend="pycocotools")


@pytest.mark.parametrize("value", [[99], 7, [[8]]])
def test_malformed_files_are_named(value):
    content = two_images()
    content["images"][0]["neg_category_ids"] = value
    with pytest.raises(InputError, match="image 1: neg_category_ids"):
        CocoEvaluator(content)
