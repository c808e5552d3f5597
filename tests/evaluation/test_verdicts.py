import numpy as np
import pytest
import torch
from coco_problems import fill, pycocotools_scorer, random_problem

from detbackbones.evaluation.coco import KINDS, CocoEvaluator
from detbackbones.evaluation.verdicts import Verdicts, content_of_images, judge

# one row of cats: found, found twice, crowd, missed; class, x, is crowd
OBJECTS = [("cat", 0, 0), ("cat", 50, 0), ("cat", 100, 1), ("dog", 150, 0)]
DETECTIONS = [("cat", 0, 0.9), ("cat", 50, 0.4), ("cat", 51, 0.8), ("cat", 100, 0.95), ("cat", 150, 0.7)]


def hand_made():
    names = {"cat": 4, "dog": 9}
    annotations = [
        {"id": i, "image_id": 5, "category_id": names[name], "bbox": [x, 0, 20, 20], "area": 400, "iscrowd": crowd}
        for i, (name, x, crowd) in enumerate(OBJECTS)
    ]
    content = {
        "images": [{"id": image_id, "height": 50, "width": 200} for image_id in (5, 3)],
        "categories": [{"id": number, "name": name} for name, number in names.items()],
        "annotations": annotations,
    }
    evaluator = CocoEvaluator(content, ("bbox",))
    boxes = torch.tensor([[x, 0.0, x + 20, 20] for _, x, _ in DETECTIONS])
    scores = torch.tensor([score for *_, score in DETECTIONS])
    evaluator.add(5, {"boxes": boxes, "scores": scores, "labels": [names[name] for name, *_ in DETECTIONS]})
    return evaluator


def test_verdicts_by_hand():
    verdicts = judge(hand_made(), "bbox")
    assert verdicts[5].detections == ("true", "duplicate", "true", "ignored", "false")
    assert verdicts[5].objects == ("true", "true", "ignored", "missed")
    assert verdicts[5].counts == {"true": 2, "duplicate": 1, "false": 1, "ignored": 1, "missed": 1}
    assert verdicts[5].f1 == pytest.approx(4 / 7)  # 2 of 4 detections, 2 of 3 objects
    assert verdicts[3] == Verdicts((), (), ())


def test_a_threshold_leaves_out_detections_and_misses_their_objects():
    verdicts = judge(hand_made(), "bbox", min_score=0.85)[5]
    assert verdicts.is_used == (True, False, False, True, False)
    assert verdicts.objects == ("true", "missed", "ignored", "missed")
    assert verdicts.counts == {"true": 1, "ignored": 1, "missed": 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", (0, 1, 3, 4))
def test_verdicts_are_those_of_pycocotools(seed, kind):
    content, predictions = random_problem(seed)
    evaluator = fill(CocoEvaluator(content), predictions)
    scorer = pycocotools_scorer(content, evaluator.results(kind), kind)
    image_ids, entries = list(evaluator.image_numbers), evaluator.results(kind)
    expected = ["ignored"] * len(entries)
    missed, present = set(), set()
    for cell in scorer.evalImgs:
        if cell is None or cell["aRng"] != [0, 1e10]:
            continue
        for place, number in enumerate(cell["dtIds"]):
            if not cell["dtIgnore"][0, place]:
                objects = scorer._gts[cell["image_id"], cell["category_id"]]
                overlap = scorer.ious[cell["image_id"], cell["category_id"]][place] if objects else ()
                fits = [iou >= 0.5 and not entry["iscrowd"] for iou, entry in zip(overlap, objects)]
                unmatched = "duplicate" if any(fits) else "false"
                expected[number - 1] = "true" if cell["dtMatches"][0, place] else unmatched
        kept = np.array(cell["gtIgnore"]) == 0
        present |= set(np.array(cell["gtIds"])[kept].tolist())
        missed |= set(np.array(cell["gtIds"])[kept & (cell["gtMatches"][0] == 0)].tolist())
    verdicts = judge(evaluator, kind)
    found = [word for image_id in image_ids for word in verdicts[image_id].detections]
    assert found == expected
    assert {"true", "false", "duplicate"} <= set(expected)
    of_objects = {
        entry["id"]: word
        for image_id in image_ids
        for entry, word in zip(
            (entry for entry in content["annotations"] if entry["image_id"] == image_id), verdicts[image_id].objects
        )
    }
    assert {key for key, word in of_objects.items() if word == "missed"} == missed
    assert {key for key, word in of_objects.items() if word != "ignored"} == present


def test_an_evaluator_of_a_few_images_gives_their_verdicts():
    content, predictions = random_problem(0)
    whole = judge(fill(CocoEvaluator(content), predictions), "segm")
    few = list(whole)[1:3]
    part = CocoEvaluator(content_of_images(content, few))
    for image_id in few:
        if image_id in predictions:
            part.add(image_id, predictions[image_id])
    assert judge(part, "segm") == {image_id: whole[image_id] for image_id in few}
