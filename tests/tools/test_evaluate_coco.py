import csv
import json
from pathlib import Path

import pytest
from coco_problems import fill, random_problem
from PIL import Image

from detbackbones.evaluation.coco import BACKENDS, CocoEvaluator
from detbackbones.tools.cli import main as detbackbones
from detbackbones.tools.evaluate_coco import main

OUTPUTS = {"metrics.json", "per_class.csv", "details.json", "pr_curves.png", "calibration.png", "confusion_matrix.png"}


@pytest.fixture
def evaluator(tmp_path, monkeypatch) -> CocoEvaluator:
    """An evaluator with detections; its annotations and results are files in the working directory."""
    monkeypatch.chdir(tmp_path)
    content, predictions = random_problem(2)
    content["categories"][0]["name"] = "$_^$[red]"
    evaluator = fill(CocoEvaluator(content), predictions)
    write("truth.json", content)
    write("results.json", evaluator.results())
    write("other.json", evaluator.results()[::2])
    return evaluator


def write(name, content):
    with open(name, "w") as file:
        json.dump(content, file)


def read(path):
    return json.loads(path.read_text())


def assert_refused(capsys, tmp_path, words, message):
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_scores_a_file(evaluator, tmp_path, capsys, backend):
    assert main(["truth.json", "results.json", "out=folder", f"backend={backend}"]) == 0
    assert {path.name for path in (tmp_path / "folder").iterdir()} == OUTPUTS
    assert read(tmp_path / "folder/metrics.json") == evaluator.compute()
    details = read(tmp_path / "folder/details.json")
    assert list(details) == ["bbox", "segm"]
    assert details["bbox"]["classes"][0]["name"] == "$_^$[red]"
    with open(tmp_path / "folder/per_class.csv") as file:
        assert len(list(csv.DictReader(file))) == 8
    output = capsys.readouterr().out
    assert "$_^$[red]" in output
    assert f"{100 * evaluator.compute()['segm/AP']:.1f}" in output


def test_without_a_folder_it_only_prints(evaluator, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert detbackbones(["evaluate", "truth.json", "results.json"]) == 0
    assert "bbox per class" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("iou,kinds", [("bbox", {"bbox"}), ("segm", {"segm"}), ("segm,bbox", {"bbox", "segm"})])
def test_iou_chooses_boxes_or_masks(evaluator, tmp_path, iou, kinds):
    assert main(["truth.json", "results.json", "out=folder", f"iou={iou}"]) == 0
    assert {name.split("/")[0] for name in read(tmp_path / "folder/metrics.json")} == kinds


def test_max_dets(evaluator, tmp_path):
    assert main(["truth.json", "results.json", "out=folder", "max_dets=2"]) == 0
    assert "bbox/AR2" in read(tmp_path / "folder/metrics.json")


def test_it_compares_two_files(evaluator, tmp_path, capsys):
    assert main(["truth.json", "results.json", "other.json", "samples=20", "out=folder"]) == 0
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["comparison.json"]
    comparison = read(tmp_path / "folder/comparison.json")
    assert comparison["results"] == ["results.json", "other.json"]
    assert comparison["bbox"][0]["a"] == evaluator.compute()["bbox/AP"]
    assert " to " in capsys.readouterr().out


def test_lvis_is_scored_by_its_rule(evaluator, capsys):
    content = read(Path("truth.json"))
    for image in content["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [], []
    write("lvis.json", content)
    assert main(["lvis.json", "results.json", "iou=bbox"]) == 0
    assert "APr" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,message",
    [
        (["truth.json"], "expected ANNOTATIONS, RESULTS"),
        (["truth.json", "missing.json"], "results file missing.json does not exist"),
        (["missing.json", "results.json"], "missing.json does not exist"),
        (["truth.json", "truth.json"], "must be a list of detections, got a dict"),
        (["results.json", "results.json"], "results.json has a list"),
        (["truth.json", "results.json", "iou=boxes"], "unknown iou 'boxes'"),
        (["truth.json", "results.json", "backend=cocoeval"], "backend must be one of"),
        (["truth.json", "results.json", "max_dets=0"], "max_dets must be greater than 0"),
        (["truth.json", "results.json", "max_det=5"], "did you mean max_dets?"),
        (["truth.json", "results.json", "out="], "out= is empty"),
        (["truth.json", "results.json", "out=truth.json"], "truth.json is a file, expected a folder"),
        (["truth.json", "results.json", "out=truth.json/folder"], "truth.json is a file, expected a folder"),
    ],
)
def test_bad_input_is_one_line(evaluator, tmp_path, capsys, words, message):
    assert_refused(capsys, tmp_path, words, message)


@pytest.mark.parametrize("change", [{"image_id": 99}, {"score": None}, {"bbox": [1]}, {"segmentation": {}}])
def test_bad_results_are_one_line(evaluator, tmp_path, capsys, change):
    entries = evaluator.results()
    write("results.json", [entries[0] | change, *entries[1:]])
    assert_refused(capsys, tmp_path, ["truth.json", "results.json", "iou=bbox,segm", "out=folder"], "entry 0: ")


def test_a_folder_with_results_is_kept(evaluator, tmp_path, capsys):
    assert main(["truth.json", "results.json", "out=folder", "iou=bbox"]) == 0
    capsys.readouterr()
    assert_refused(capsys, tmp_path, ["truth.json", "results.json", "out=folder"], "already has metrics.json")


def test_results_without_a_common_kind(evaluator, tmp_path, capsys):
    write("boxes.json", evaluator.results("bbox"))
    write("masks.json", evaluator.results("segm"))
    assert_refused(capsys, tmp_path, ["truth.json", "boxes.json", "masks.json"], "neither boxes nor masks in common")


def test_missing_sizes_are_taken_from_the_images(evaluator, tmp_path, capsys):
    content = json.loads(Path("truth.json").read_text())
    Path("images").mkdir()
    for image in content["images"]:
        Image.new("L", (image.pop("width"), image.pop("height"))).save(f"images/{image['file_name']}")
    write("sizeless.json", content)
    assert_refused(capsys, tmp_path, ["sizeless.json", "results.json"], "set image_dir")
    assert main(["sizeless.json", "results.json", "image_dir=images", "out=folder"]) == 0
    assert read(tmp_path / "folder/metrics.json") == evaluator.compute()


def test_images_of_other_formats_are_matched_by_file_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("images/val", "labels/val"):
        Path(folder).mkdir(parents=True)
    for number in (2, 10):  # in the order of their paths, 10.jpg is the first image
        Image.new("RGB", (60, 40)).save(f"images/val/{number}.jpg")
        Path(f"labels/val/{number}.txt").write_text(f"0 0.{number} 0.5 0.1 0.2\n")
    Path("data.yaml").write_text("val: images/val\nnames: [cat]\n")
    entries = [
        {"image_id": number, "category_id": 0, "bbox": [x - 3, 16, 6, 8], "score": 0.5, "file_name": f"{number}.jpg"}
        for number, x in ((2, 12), (10, 6))
    ]
    write("results.json", entries)
    assert main(["data.yaml", "results.json", "out=scored"]) == 0
    assert "file_name" in capsys.readouterr().out
    assert read(tmp_path / "scored/metrics.json")["bbox/AP"] == pytest.approx(1)
    for entry in entries:
        del entry["file_name"]
    write("results.json", entries)
    assert main(["data.yaml", "results.json"]) == 0
    assert "number in the name of the file" in capsys.readouterr().out


def test_results_of_other_annotations_are_refused(evaluator, tmp_path, capsys):
    content = read(tmp_path / "truth.json")
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
    write("truth.json", content)
    write("results.json", [entry | {"file_name": "other.png"} for entry in evaluator.results()])
    assert_refused(capsys, tmp_path, ["truth.json", "results.json"], "file_name is other.png")


@pytest.mark.parametrize("key,kind", [("segmentation", "bbox"), ("bbox", "segm")])
def test_an_entry_that_lacks_what_others_have_is_named(evaluator, tmp_path, capsys, key, kind):
    entries = evaluator.results()
    del entries[1][key]
    write("results.json", entries)
    assert_refused(capsys, tmp_path, ["truth.json", "results.json"], f"entry 1 has no {key!r}")
    assert main(["truth.json", "results.json", f"iou={kind}"]) == 0


def test_results_with_corners_are_refused(evaluator, tmp_path, capsys):
    results = evaluator.results("bbox")
    for entry in results:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x + 1, y + 1, x + width + 100, y + height + 100]
    write("corners.json", results)
    assert_refused(capsys, tmp_path, ["truth.json", "corners.json", "iou=bbox"], "[x1, y1, x2, y2]")
