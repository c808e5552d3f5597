import csv
import json

import numpy as np
import pytest
import torch
from coco_problems import fill, pycocotools_scorer, random_problem, rename_ids

from detbackbones.evaluation.coco import BACKENDS, KINDS, CocoEvaluator
from detbackbones.evaluation.details import class_labels, compute_details, write_class_csv

# image 1: a cat found, a cat taken for a dog, a dog missed, a dog where nothing is, a cat on a crowd of cats
OBJECTS = [("cat", 0, 0), ("cat", 30, 0), ("dog", 60, 0), ("cat", 120, 1)]  # class, x, is crowd
DETECTIONS = [("cat", 0, 0.9), ("dog", 30, 0.8), ("dog", 90, 0.7), ("cat", 120, 0.95), ("cat", 150, 0.1)]


def brute_force_threshold(scorer, category_id):
    """Try every score as threshold, on pycocotools' matches at IoU 0.5."""
    images = [e for e in scorer.evalImgs if e and e["category_id"] == category_id and e["aRng"] == [0, 1e10]]
    scores = np.concatenate([e["dtScores"] for e in images])
    matched = np.concatenate([e["dtMatches"][0] > 0 for e in images])
    counts = np.concatenate([~e["dtIgnore"][0].astype(bool) for e in images])
    objects = sum((np.array(e["gtIgnore"]) == 0).sum() for e in images)
    best = (0.0, None, None, None)
    for threshold in sorted(set(scores[counts]), reverse=True):
        kept = counts & (scores >= threshold)
        precision, recall = matched[kept].mean(), matched[kept].sum() / objects
        f1 = 2 * precision * recall / (precision + recall) if precision else 0
        if f1 > best[0] + 1e-12:
            best = (f1, threshold, precision, recall)
    return best


def hand_made():
    names = {"cat": 4, "dog": 9}
    content = {
        "images": [{"id": 5, "height": 50, "width": 200}],
        "categories": [{"id": number, "name": name} for name, number in names.items()],
        "annotations": [
            {"id": i, "image_id": 5, "category_id": names[name], "bbox": [x, 0, 20, 20], "area": 400, "iscrowd": crowd}
            for i, (name, x, crowd) in enumerate(OBJECTS)
        ],
    }
    evaluator = CocoEvaluator(content, ("bbox",))
    boxes = torch.tensor([[x, 0.0, x + 20, 20] for _, x, _ in DETECTIONS])
    scores = torch.tensor([score for *_, score in DETECTIONS])
    evaluator.add(5, {"boxes": boxes, "scores": scores, "labels": [names[name] for name, *_ in DETECTIONS]})
    return evaluator


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_per_class_equal_pycocotools(seed, kind):
    content, predictions = random_problem(seed, images=8)
    evaluator = fill(CocoEvaluator(content), predictions)
    scorer = pycocotools_scorer(content, evaluator.results(kind), kind)
    precision, recall = scorer.eval["precision"][..., -1], scorer.eval["recall"][..., -1]
    for index, row in enumerate(compute_details(evaluator, kind).classes):
        parts = {"AP": precision[:, :, index, 0], "AP50": precision[0, :, index, 0], "AR": recall[:, index, 0]}
        parts |= {name: precision[:, :, index, area] for area, name in enumerate(("APs", "APm", "APl"), 1)}
        for name, part in parts.items():
            assert row[name] == (pytest.approx(part.mean(), abs=1e-12) if part.min() > -1 else None), name
        crowds = [entry["iscrowd"] for entry in content["annotations"] if entry["category_id"] == row["id"]]
        assert row["objects"] == crowds.count(0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_equal_brute_force(seed, kind):
    content, predictions = random_problem(seed, images=8)
    evaluator = fill(CocoEvaluator(content), predictions)
    scorer = pycocotools_scorer(content, evaluator.results(kind), kind)
    for row in compute_details(evaluator, kind).classes[:3]:
        f1, threshold, precision, recall = brute_force_threshold(scorer, row["id"])
        expected = pytest.approx((f1, threshold, precision, recall)) if f1 else (None, None, None, None)
        assert (row["F1"], row["threshold"], row["precision"], row["recall"]) == expected


def test_confusion_by_hand():
    details = compute_details(hand_made(), "bbox")
    assert details.overall["threshold"] == pytest.approx(0.9)
    assert details.confusion.tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]  # 1 of 3 objects, no other detection


def test_confusion_of_all_detections():
    """Rows are objects (cat, dog, background); the detection on the crowd counts nowhere."""
    evaluator = hand_made()
    table, _ = evaluator.predictions[5]
    table[3, 5] = 2.0  # the score of the detection on the crowd must not matter
    table[[1, 2, 4], 5] = 0.9  # the threshold keeps all the others
    details = compute_details(evaluator, "bbox")
    assert details.confusion.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_errors_by_hand():
    counts = compute_details(hand_made(), "bbox").errors["counts"]
    assert counts == {"Cls": 1, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 2, "Miss": 1}


def test_curves_are_pycocotools_precision():
    content, predictions = random_problem(1)
    evaluator = fill(CocoEvaluator(content), predictions)
    details = compute_details(evaluator, "bbox")
    precision = pycocotools_scorer(content, evaluator.results("bbox"), "bbox").eval["precision"][:, :, :, 0, -1]
    assert np.array_equal(details.precision[:, 0], precision[0].T)
    assert np.array_equal(details.precision[:, 1], precision[5].T)
    assert np.allclose(details.precision[:, 2], precision.mean(0).T)
    assert details.precision.shape == (4, 3, len(details.recall))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rename", [lambda i: -i, lambda i: i + 2**64, lambda i: f"<{i}>"])
def test_rows_have_the_ids_of_the_file(rename, backend):
    content, predictions = random_problem(2)
    expected = compute_details(fill(CocoEvaluator(content), predictions), "bbox")
    renamed = rename_ids(content, rename, predictions)
    details = compute_details(fill(CocoEvaluator(content, backend=backend), renamed), "bbox")
    rows = {row["id"]: {**row, "id": None} for row in details.classes}
    assert rows == {rename(row["id"]): {**row, "id": None} for row in expected.classes}
    assert json.loads(json.dumps(details.as_dict()))["classes"] == details.classes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_calibration_equals_its_definition(seed, kind):
    content, predictions = random_problem(seed, images=8)
    evaluator = fill(CocoEvaluator(content), predictions)
    images = [e for e in pycocotools_scorer(content, evaluator.results(kind), kind).evalImgs if e]
    images = [e for e in images if e["aRng"] == [0, 1e10]]
    counts = np.concatenate([~e["dtIgnore"][0].astype(bool) for e in images])
    scores = np.concatenate([e["dtScores"] for e in images])[counts]
    matched = np.concatenate([e["dtMatches"][0] > 0 for e in images])[counts]
    bins = np.minimum((scores * 10 + 1e-6).astype(int), 9)  # of single precision
    gaps = [abs(scores[bins == b].mean() - matched[bins == b].mean()) * (bins == b).sum() for b in set(bins)]
    calibration = compute_details(evaluator, kind).calibration
    assert calibration["ece"] == pytest.approx(sum(gaps) / len(scores), abs=1e-6)
    assert [entry["count"] for entry in calibration["bins"]] == np.bincount(bins, minlength=10).tolist()


def test_nothing_detected():
    details = compute_details(CocoEvaluator(random_problem(0)[0]), "segm")
    assert {row["threshold"] for row in details.classes} == {None}
    assert details.confusion[:-1, -1].tolist() == [row["objects"] for row in details.classes]
    json.dumps(details.as_dict(), allow_nan=False)


def test_no_objects():
    content, predictions = random_problem(0)
    evaluator = fill(CocoEvaluator(content | {"annotations": []}), predictions)
    details = compute_details(evaluator, "bbox")
    assert {row["AP"] for row in details.classes} == {None}
    json.dumps(details.as_dict(), allow_nan=False)


def test_csv_has_a_row_per_kind_and_class(tmp_path):
    content, predictions = random_problem(0)
    content["categories"][0]["name"] = 'a,"b"\n\ud800'
    evaluator = fill(CocoEvaluator(content), predictions)
    details = [compute_details(evaluator, kind) for kind in KINDS]
    write_class_csv(tmp_path / "per_class.csv", details)
    with open(tmp_path / "per_class.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["id"]) for row in rows] == [(kind, str(i)) for kind in KINDS for i in range(1, 5)]
    assert rows[0]["name"] == 'a,"b"\n\\ud800'
    assert float(rows[0]["AP"]) == details[0].classes[0]["AP"]
    assert rows[3]["AP"] == ""  # no object


def test_classes_of_one_name_have_their_id():
    rows = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    assert class_labels(rows) == ["cat (1)", "cat (2)", "dog"]
