import numpy as np
import pytest
from coco_problems import fill, pycocotools_scorer, random_problem

from detbackbones.evaluation.coco import BACKENDS, CocoEvaluator
from detbackbones.evaluation.metrics import metric_names, summarize


def pycocotools_means(content, results, limits):
    """AP, AP50 and AR at every limit from pycocotools' arrays."""
    scorer = pycocotools_scorer(content, results, "bbox", limits)
    precision, recall = (scorer.eval[name][..., 0, :] for name in ("precision", "recall"))
    parts = {"AP": precision[..., -1], "AP50": precision[0, ..., -1]}
    parts |= {f"AR{limit}": recall[..., index] for index, limit in enumerate(limits)}
    return {name: part[part > -1].mean() for name, part in parts.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("max_dets,limits", [(1, [1]), (3, [1, 3]), (10, [1, 10]), (17, [1, 10, 17])])
def test_any_number_of_detections(max_dets, limits, backend):
    """pycocotools' own `summarize` gives an AP of -1 for these."""
    content, predictions = random_problem(2)
    evaluator = fill(CocoEvaluator(content, ("bbox",), backend, max_dets), predictions)
    expected = pycocotools_means(content, evaluator.results("bbox"), limits)
    metrics = evaluator.compute()
    assert {name: metrics[f"bbox/{name}"] for name in expected} == pytest.approx(expected, rel=0, abs=1e-12)
    assert list(metrics) == [f"bbox/{name}" for name in metric_names(max_dets)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_than_100_detections_count_if_asked_for(backend):
    content, predictions = random_problem(0)
    worst = {key: value[:1].repeat(120, *[1] * (value.ndim - 1)) for key, value in predictions[2].items()}
    good = {key: value[-1:] for key, value in predictions[2].items()}
    box = content["annotations"][0]
    image_id, (x, y, width, height) = box["image_id"], box["bbox"]
    worst |= {"boxes": worst["boxes"] * 0 + good["boxes"].new_tensor([0, 0, 1, 1])}
    detections = {key: np.concatenate([worst[key], good[key]]) for key in ("boxes", "scores", "labels")}
    detections["boxes"][-1] = [x, y, x + width, y + height]
    detections["scores"][:] = np.linspace(1, 0.1, 121)
    detections["labels"][:] = box["category_id"]
    recalls = []
    for max_dets in (100, 121):
        evaluator = CocoEvaluator(content, ("bbox",), backend, max_dets)
        evaluator.add(image_id, detections)
        recalls.append(evaluator.compute()[f"bbox/AR{max_dets}"])
    assert recalls[0] == 0 < recalls[1]


def test_names():
    assert metric_names() == (*"AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split(),)
    assert metric_names(5)[6:] == ("AR1", "AR5", "ARs", "ARm", "ARl")
    assert metric_names(300, is_lvis=True)[6:] == ("APr", "APc", "APf", "AR300", "ARs", "ARm", "ARl")


def test_metrics_without_objects_are_minus_one():
    arrays = {"precision": np.full((10, 101, 2, 4, 3), -1.0), "recall": np.full((10, 2, 4, 3), -1.0)}
    assert set(summarize(arrays, 100, None).values()) == {-1.0}
