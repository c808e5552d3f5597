import json
import shutil

import pytest
from tiny_runs import NARROW, words

from detbackbones.evaluation.coco import CocoEvaluator
from detbackbones.evaluation.results import add_results, read_results
from detbackbones.tools.evaluate_coco import main as evaluate
from detbackbones.tools.train_coco import main as train

DETAILS = {"per_class.csv", "details.json", "pr_curves.png", "confusion_matrix.png", "calibration.png"}


@pytest.fixture
def settings(shapes) -> list[str]:
    return words(NARROW | {"data_root": shapes, "short_side": 64, "work_dir": "run"})


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_run_writes_results_that_score_the_same_without_the_model(settings, shapes, here, capsys):
    assert train([*settings, "max_iters=2", "max_dets=20"]) == 0
    assert "bbox per class" in capsys.readouterr().out
    assert files(here / "run") >= DETAILS | {"predictions.json", "predictions_segm.json"}
    truth = str(shapes / "instances_val.json")
    assert evaluate([truth, "run/predictions.json", "out=scored", "max_dets=20"]) == 0
    expected = json.loads((here / "run/metrics.json").read_text())
    assert "segm/AR20" in expected
    assert json.loads((here / "scored/metrics.json").read_text()) == expected
    for name in ("per_class.csv", "details.json"):
        assert (here / "scored" / name).read_bytes() == (here / "run" / name).read_bytes()


def test_every_evaluation_writes_predictions_and_the_last_one_details(settings, shapes, here, monkeypatch):
    written = []
    monkeypatch.setattr(
        "detbackbones.engine.detection.save_predictions",
        lambda evaluator, folder, for_pycocotools: written.append(for_pycocotools),
    )
    monkeypatch.setattr("detbackbones.engine.detection.save_details", lambda *_: written.append("details"))
    assert train([*settings, "max_iters=3", "eval_every=1"]) == 0
    assert written == [False, False, True, "details"]


def test_evaluating_a_checkpoint_writes_the_same_files(settings, here):
    assert train([*settings, "max_iters=1"]) == 0
    assert train(["eval_only=true", "checkpoint=run/last.pt", "work_dir=again"]) == 0
    assert files(here / "again") >= DETAILS | {"predictions.json"}
    content = json.loads((here / "run/predictions.json").read_text())
    keys = {"image_id", "category_id", "bbox", "segmentation", "score", "file_name"}
    assert {key for entry in content for key in entry} == keys


def test_masks_alone_are_what_pycocotools_reads(settings, shapes, here):
    assert train([*settings, "max_iters=1"]) == 0
    entries = read_results(here / "run/predictions_segm.json")
    keys = {"image_id", "category_id", "segmentation", "score", "file_name"}
    assert {key for entry in entries for key in entry} == keys
    evaluator = CocoEvaluator(json.loads((shapes / "instances_val.json").read_text()), ("segm",))
    add_results(evaluator, entries, "predictions_segm.json")
    metrics = json.loads((here / "run/metrics.json").read_text())
    assert evaluator.compute() == {key: value for key, value in metrics.items() if key.startswith("segm")}


@pytest.fixture
def lvis(shapes, here) -> None:
    """The data with validation annotations in LVIS's form, in the folder `data`."""
    shutil.copytree(shapes, "data")
    path = here / "data/instances_val.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [], []
    for category in content["categories"]:
        category["frequency"] = "r"
    path.write_text(json.dumps(content))


def test_lvis_is_scored_by_its_rule(settings, lvis, here):
    assert train([*settings, "data_root=data", "max_iters=1"]) == 0
    metrics = json.loads((here / "run/metrics.json").read_text())
    assert metrics["bbox/APr"] == metrics["bbox/AP"] >= 0
    assert "bbox/AR300" in metrics


def test_lvis_and_pycocotools_are_refused_before_training(settings, lvis, here, capsys):
    assert train([*settings, "data_root=data", "max_iters=1", "eval_backend=pycocotools"]) == 2
    assert "LVIS" in capsys.readouterr().err
    assert not (here / "run").exists()
