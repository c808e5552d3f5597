"""The predict command as a user meets it, with a very narrow network."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from tiny_runs import NARROW, words

from detbackbones.tools import predict
from detbackbones.tools.cli import main as detbackbones
from detbackbones.tools.predict import main
from detbackbones.tools.train_coco import main as train


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Path:
    """The folder of a short run, and beside it its evaluation."""
    folder = tmp_path_factory.mktemp("runs")
    settings = words(NARROW | {"model.roi_heads.score_thresh": 0.05, "max_iters": 2, "work_dir": folder / "run"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: None)
        patch.chdir(folder)
        assert train([f"data_root={shapes}", *settings]) == 0
        assert train(["eval_only=true", f"checkpoint={folder / 'run/last.pt'}", f"work_dir={folder / 'eval'}"]) == 0
    return folder / "run"


@pytest.fixture
def photos(shapes, here) -> Path:
    """A folder with three images, in the working directory."""
    folder = here / "photos"
    (folder / "more").mkdir(parents=True)
    for name, source in zip(("a.jpg", "b.png", "more/a.jpg"), sorted((shapes / "images").iterdir())):
        Image.open(source).save(folder / name)
    return folder


def read(path):
    return json.loads(Path(path).read_text())


def in_any_order(entries):
    return sorted(json.dumps(entry, sort_keys=True) for entry in entries)


def pictures(folder="out"):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.png"))


def refused(capsys, *arguments, message):
    before = sorted(Path().rglob("*"))
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error, error
    assert sorted(Path().rglob("*")) == before


def test_predictions_are_those_of_an_evaluation(run, shapes, here):
    annotations = shapes / "instances_val.json"
    arguments = [shapes / "images", f"weights={run}", f"ann_file={annotations}", "out=out"]
    assert main([*map(str, arguments), "pictures=false"]) == 0
    expected = read(run.parent / "eval/predictions.json")
    assert len(expected) > 10
    assert in_any_order(read("out/predictions.json")) == in_any_order(expected)
    assert not pictures()
    assert detbackbones(["evaluate", str(annotations), "out/predictions.json", "out=scores"]) == 0
    assert read("scores/metrics.json") == read(run.parent / "eval/metrics.json")


def test_predictions_of_a_run_in_lower_precision_are_those_of_its_evaluation(run, shapes, here):
    checkpoint = f"checkpoint={run / 'last.pt'}"
    assert train(["eval_only=true", checkpoint, "precision=bf16", "work_dir=eval"]) == 0
    state = torch.load(run / "last.pt", weights_only=True)
    state["config"]["precision"] = "bf16"
    torch.save(state, "last.pt")
    arguments = [str(shapes / "images"), "weights=last.pt", f"ann_file={shapes / 'instances_val.json'}", "out=out"]
    assert main([*arguments, "pictures=false"]) == 0
    expected = in_any_order(read("eval/predictions.json"))
    assert in_any_order(read("out/predictions.json")) == expected
    assert expected != in_any_order(read(run.parent / "eval/predictions.json"))


def test_a_folder(run, photos, capsys):
    assert detbackbones(["predict", "photos", f"weights={run}", "out=out", "score_threshold=0.1"]) == 0
    assert pictures() == ["a.png", "b.png", "more/a.png"]
    images = read("out/images.json")
    assert [image["file_name"] for image in images["images"]] == ["a.jpg", "b.png", "more/a.jpg"]
    assert [category["id"] for category in images["categories"]] == [2, 7, 13, 44, 90]
    results = read("out/predictions.json")
    assert min(entry["score"] for entry in results) >= 0.1
    loaded = COCO("out/images.json").loadRes("out/predictions.json")
    assert len(loaded.getAnnIds()) == len(results) > 0
    for entry in results:
        assert entry["file_name"] == images["images"][entry["image_id"] - 1]["file_name"]
    assert f"{len(results)} detections in 3 images -> out" in capsys.readouterr().out
    picture = np.asarray(Image.open("out/a.png"))
    original = np.asarray(Image.open("photos/a.jpg"))
    factor = len(picture) // len(original)
    assert picture.shape == (original.shape[0] * factor, original.shape[1] * factor, 3)
    assert (picture != original.repeat(factor, 0).repeat(factor, 1)).any(2).mean() > 0.01


def test_files_and_patterns(run, photos):
    assert main(["photos/*.jpg", "photos/**/a.*", "photos/a.jpg", f"weights={run}", "out=out"]) == 0
    names = [image["file_name"] for image in read("out/images.json")["images"]]
    assert names == ["a.jpg", "more/a.jpg"]  # each file once


def test_files_of_one_name_do_not_overwrite_each_other(run, photos):
    Image.open("photos/a.jpg").save("photos/a.png")
    Image.open("photos/a.jpg").save("photos/A.bmp")
    assert main(["photos", "photos/more/a.jpg", f"weights={run}", "out=out"]) == 0
    assert len(pictures()) == 5
    assert len({image["id"] for image in read("out/images.json")["images"]}) == 5


def test_its_own_output_is_never_read(run, photos):
    for number in (1, 2):
        assert main([".", f"weights={run}", "score_threshold=0.9"]) == 0
        assert len(read(f"predictions-{number}/images.json")["images"]) == 3
    assert main(["photos", f"weights={run}", "out=photos/out"]) == 0
    assert main(["photos/**/*.png", f"weights={run}", "out=x"]) == 0
    assert [image["file_name"] for image in read("x/images.json")["images"]] == ["b.png"]


def test_an_output_is_not_written_over_or_among_images(run, photos, capsys):
    assert main(["photos", f"weights={run}", "out=out"]) == 0
    capsys.readouterr()
    refused(capsys, "photos", f"weights={run}", "out=out", message="already has predictions.json")
    refused(capsys, "photos", f"weights={run}", "out=photos", message="choose another folder")
    refused(capsys, "photos/more/a.jpg", f"weights={run}", "out=photos/more", message="choose another folder")
    refused(capsys, "out", f"weights={run}", message="expected images")


def test_unreadable_images_stop_or_are_skipped(run, photos, capsys):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    refused(capsys, "photos", f"weights={run}", message="photos/broken.jpg is unreadable")
    for batch_size in (1, 3):
        out = f"out{batch_size}"
        assert main(["photos", f"weights={run}", "skip_unreadable=true", f"batch_size={batch_size}", f"out={out}"]) == 0
        assert "skipped 1 image(s), first: image photos/broken.jpg" in capsys.readouterr().out
        assert len(read(f"{out}/images.json")["images"]) == 3
    refused(capsys, "photos/broken.jpg", f"weights={run}", "skip_unreadable=true", message="broken.jpg")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_ctrl_c_keeps_what_was_found(run, photos, monkeypatch, capsys, number):
    detections, seen = predict.Predictor.__call__, []

    def interrupted(predictor, images):
        seen.append(images)
        if len(seen) == number:
            raise KeyboardInterrupt
        return detections(predictor, images)

    monkeypatch.setattr(predict.Predictor, "__call__", interrupted)
    assert main(["photos", f"weights={run}", "out=out", "pictures=false"]) == 130
    out, err = capsys.readouterr()
    assert err == "interrupted\n"
    if number == 1:
        assert list(Path("out").iterdir()) == []
        return
    assert f"stopped after {number - 1} of 3 images" in out
    assert [image["id"] for image in read("out/images.json")["images"]] == list(range(1, number))
    assert {row["image_id"] for row in read("out/predictions.json")} == set(range(1, number))


def test_names_with_brackets_and_commas_are_single_sources():
    for weights in ("runs/model(1)", "runs/a,b"):
        settings = predict.read_settings({"weights": weights, "classes": "[cat,dog]"})
        assert settings.weights == weights and settings.classes == ["cat", "dog"]
    assert predict.read_settings({"weights": "[runs/a,runs/b]"}).weights == ["runs/a", "runs/b"]


def test_an_error_in_the_middle_leaves_no_results(run, photos, capsys):
    content = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(content[: len(content) // 2])  # with a whole header
    assert main(["photos", f"weights={run}", "out=out"]) == 2
    assert "b.png" in capsys.readouterr().err
    assert main(["photos", f"weights={run}", "out=out", "skip_unreadable=true"]) == 0
    assert len(read("out/images.json")["images"]) == 2


def test_a_folder_that_cannot_be_written_is_found_before_the_first_image(run, photos, monkeypatch, capsys):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(predict.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(predict.Predictor, "__call__", lambda *_: pytest.fail("an image was predicted"))
    assert main(["photos", f"weights={run}", "out=out"]) == 1
    assert capsys.readouterr().err == "error: cannot write out: Permission denied\n"


@pytest.mark.skipif(os.name == "nt", reason="needs names that Windows does not have")
def test_the_orientation_of_photos_is_applied(run, photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open("photos/a.jpg").crop((0, 0, 60, 40)).save("photos/turned.jpg", exif=exif)
    assert main(["photos/turned.jpg", f"weights={run}", "out=out"]) == 0
    (image,) = read("out/images.json")["images"]
    assert (image["width"], image["height"]) == (40, 60)


def test_an_ensemble_tiles_and_augmentation(run, photos):
    image = np.tile(np.asarray(Image.open("photos/a.jpg")), (2, 1, 1))
    Image.fromarray(image).save("photos/large.png")
    arguments = ["photos/large.png", f"weights=[{run},{run}/last.pt]", "tta=(0.75,1.0)", "tile=(64,0.25)", "out=out"]
    assert main([*arguments, "classes=circle,star", "tile_whole=true", "batch_size=4"]) == 0
    results = read("out/predictions.json")
    ids = {category["name"]: category["id"] for category in read("out/images.json")["categories"]}
    assert {entry["category_id"] for entry in results} <= {ids["circle"], ids["star"]}
    height, width = image.shape[:2]
    assert all(entry["segmentation"]["size"] == [height, width] for entry in results)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["photos"], "weights=RUN_OR_NAME is missing"),
        (["weights=RUN"], "expected images or folders, got none"),
        (["photos", "weights=RUN", "scores=0.5"], "unknown config key 'scores'; did you mean score_threshold"),
        (["photos", "weights=RUN", "score_threshold=5"], "score_threshold must be at most 1"),
        (["photos", "weights=RUN", "tile=(1024,0.2,3)"], "tile"),
        (["photos", "weights=RUN", "classes=hexagon"], "unknown class 'hexagon'"),
        (["photos", "weights=RUN", "device=gpu"], "device gpu cannot be used"),
        (["photos", "weights=missing"], "missing"),
        (["missing", "weights=RUN"], "image or folder missing does not exist"),
        (["photos/*.gif", "weights=RUN"], "no image fits photos/*.gif"),
        (["photos", "photos", "weights=RUN", "ann_file=x.json"], "ann_file"),
        (["photos", "weights=RUN", "out="], "out= is empty"),
        (["photos", "weights=RUN", "out=photos/a.jpg/x"], "is a file"),
    ],
)
def test_what_cannot_be_used_is_one_line(run, photos, capsys, arguments, message):
    refused(capsys, *(argument.replace("RUN", str(run)) for argument in arguments), message=message)


def test_help_lists_the_keys(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for key in ("weights", "tile_scale", "tta", "ann_file", "skip_unreadable"):
        assert f"    {key} = " in printed
