import numpy as np
import pytest
from coco_problems import fill, random_problem

from detbackbones.evaluation.coco import CocoEvaluator
from detbackbones.evaluation.comparison import compare


def half(predictions):
    return {i: {key: value[::2] for key, value in output.items()} for i, output in predictions.items()}


def evaluators(seed, images=5, **options):
    content, predictions = random_problem(seed, images)
    pair = [CocoEvaluator(content, **options), CocoEvaluator(content, **options)]
    return content, predictions, [fill(*arguments) for arguments in zip(pair, (predictions, half(predictions)))]


def test_the_difference_is_that_of_the_metrics():
    _, _, (first, second) = evaluators(2)
    a, b = first.compute(), second.compute()
    for kind, rows in compare(first, second, samples=20).items():
        assert [row["metric"] for row in rows] == list(first.metric_names)
        for row in rows:
            name = f"{kind}/{row['metric']}"
            if a[name] >= 0:
                assert (row["a"], row["b"], row["difference"]) == (a[name], b[name], b[name] - a[name])
                assert row["lower"] <= row["upper"]


def test_equal_detections_do_not_differ():
    _, _, (first, _) = evaluators(1, kinds=("bbox",))
    rows = compare(first, first, samples=20)["bbox"]
    assert (
        {row["difference"] for row in rows} == {row["lower"] for row in rows} == {row["upper"] for row in rows} == {0}
    )


def test_without_samples_there_is_no_interval():
    _, _, pair = evaluators(1, kinds=("bbox",))
    assert {row["lower"] for row in compare(*pair, samples=0)["bbox"]} == {None}


@pytest.mark.parametrize("max_dets,names", [(100, {"AR1", "AR10", "AR100"}), (7, {"AR7"}), (200, {"AR1", "AR200"})])
def test_recalls_have_the_intervals_of_their_limit(max_dets, names):
    _, _, pair = evaluators(2, kinds=("bbox",), max_dets=max_dets)
    rows = {row["metric"]: row for row in compare(*pair, samples=20)["bbox"]}
    assert all(rows[name]["lower"] is not None for name in names)
    if max_dets == 7:
        assert rows["AR1"]["lower"] is None


def test_intervals_are_as_wide_as_those_of_a_bootstrap():
    """Reference: images drawn with replacement, each drawing an image of its own."""
    content, predictions, pair = evaluators(2, images=25, kinds=("bbox",))
    rows = {row["metric"]: row for row in compare(*pair, samples=1000)["bbox"]}
    entries = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        entries[entry["image_id"]].append(entry)
    random = np.random.default_rng(0)
    differences = []
    for _ in range(150):
        drawn = dict(enumerate(random.choice(content["images"], 25)))
        annotations = [entry | {"image_id": i} for i, image in drawn.items() for entry in entries[image["id"]]]
        sample = content | {"images": [v | {"id": i} for i, v in drawn.items()], "annotations": annotations}
        metrics = []
        for detections in (predictions, half(predictions)):
            found = {i: detections[image["id"]] for i, image in drawn.items() if image["id"] in detections}
            metrics.append(fill(CocoEvaluator(sample, ("bbox",)), found).compute())
        differences.append(
            [metrics[1][f"bbox/{name}"] - metrics[0][f"bbox/{name}"] for name in ("AP", "AP50", "AR100")]
        )
    for name, values in zip(("AP", "AP50", "AR100"), np.transpose(differences), strict=True):
        lower, upper = np.quantile(values, [0.025, 0.975])
        assert rows[name]["upper"] - rows[name]["lower"] == pytest.approx(upper - lower, rel=0.25)
