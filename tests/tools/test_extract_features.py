"""tools/extract_features.py as a user meets it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from safetensors import safe_open
from saved_runs import save_run
from tiny_runs import NARROW

from detbackbones import build_backbone
from detbackbones.data import image_batches
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.runs import run
from detbackbones.tools.extract_features import Settings, main, usage


def draw(path, width=40, height=36, **options):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def images(here):
    """Three images of two sizes, and the weights of a ResNet-18."""
    (here / "images/sub").mkdir(parents=True)
    for name, (width, height) in (("a.jpg", (70, 50)), ("b.png", (40, 64)), ("sub/c.v2.jpg", (70, 50))):
        draw(here / "images" / name, width, height)
    torch.save(torchvision.models.resnet18().state_dict(), here / "r18.pth")
    return here


@pytest.fixture
def image(here):
    """A folder with one image."""
    (here / "images").mkdir()
    draw(here / "images/a.png")
    return here


SMALL = ["backbone=resnet18", "features=c2"]


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"settings.json"}


def test_features_are_the_backbones(images, capsys):
    words = ["images", "out=f", "backbone=resnet18_dc5", "weights=r18.pth", "features=(c1,c3,c5)", "batch_size=2"]
    assert main(words) == 0
    assert "random" not in capsys.readouterr().out
    backbone = build_backbone("resnet18_dc5", weights="r18.pth", out_features=("c1", "c3", "c5")).eval()
    for name in ("a.jpg", "b.png", "sub/c.v2.jpg"):
        saved = np.load(images / "f" / (name.rsplit(".", 1)[0] + ".npz"))
        image = torch.from_numpy(np.array(Image.open(images / "images" / name).convert("RGB"))).permute(2, 0, 1)
        with torch.no_grad():
            features = backbone(backbone.preprocess(image[None]))
        assert sorted(saved.files) == ["c1", "c3", "c5", "source", "specs"]
        for level, feature in features.items():
            np.testing.assert_allclose(saved[level], feature[0].numpy(), rtol=1e-4, atol=1e-5)
        specs = [(s["name"], s["stride"], s["dilation"]) for s in json.loads(str(saved["specs"]))]
        assert specs == [("c1", 2, 1), ("c3", 8, 1), ("c5", 16, 2)]


def test_safetensors_a_neck_and_pictures(images, capsys):
    words = ["images/a.jpg", "out=f", "backbone=resnet18", "neck=fpn", "short_side=64"]
    assert main([*words, "format=safetensors", "visualize=true"]) == 0
    printed = capsys.readouterr().out
    assert "the backbone has random weights" in printed
    assert "the neck has random weights" in printed
    with safe_open(images / "f/a.safetensors", "np") as file:
        assert sorted(file.keys()) == ["c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6"]
        specs = {s["name"]: s for s in json.loads(file.metadata()["specs"])}
        for level in file.keys():
            assert file.get_tensor(level).shape[0] == specs[level]["channels"]
        assert file.get_tensor("p2").shape == (256, 16, 23)
    picture = Image.open(images / "f/a.png").convert("RGB")
    assert len(picture.getcolors(2**24)) > 500


def test_a_run_gives_backbone_and_neck(shapes, here, capsys):
    run(load_config(DEFAULT_CONFIG, {"data_root": str(shapes), "max_iters": 1, "work_dir": "run", **NARROW}))
    capsys.readouterr()
    draw(here / "a.png")
    assert main(["a.png", "out=f", "weights=run", "neck=true"]) == 0
    assert "random" not in capsys.readouterr().out
    assert {"c2", "c4", "p2", "p4"} <= set(np.load(here / "f/a.npz").files)
    assert main(["a.png", "out=g", "weights=run/last.pt", "backbone=resnet18", "features=(c2,c3,c4)"]) == 0
    np.testing.assert_allclose(np.load(here / "g/a.npz")["c2"], np.load(here / "f/a.npz")["c2"], rtol=1e-4, atol=1e-6)


def test_a_run_with_other_weights_does_not_continue(image, capsys):
    save_run(image / "run")
    words = ["images", "out=f", "weights=run", "features=c2"]
    assert main(words) == main(words) == 0
    shutil.rmtree(image / "run")
    torch.manual_seed(1)
    save_run(image / "run")
    assert main(words) == 2
    assert "other settings" in capsys.readouterr().err


def test_an_interrupted_run_continues(images, capsys):
    words = ["images", "out=f", "backbone=resnet18", "features=c2"]
    assert main(words) == 0
    first = {path: path.stat().st_mtime_ns for path in (images / "f").rglob("*.npz")}
    kept = np.load(images / "f/b.npz")["c2"]
    (images / "f/b.npz").unlink()
    (images / "f/b.npz.part").write_bytes(b"cut off")
    assert main(words) == 0
    assert "2 of 3 images have features already" in capsys.readouterr().out
    second = {path: path.stat().st_mtime_ns for path in (images / "f").rglob("*.npz")}
    assert {path.name for path in second if first[path] != second[path]} == {"b.npz"}
    np.testing.assert_array_equal(np.load(images / "f/b.npz")["c2"], kept)  # the random weights are the same ones
    assert main([*words, "model.output_stride=8"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_features_of_another_image_of_the_same_name_are_not_kept(image, capsys, format):
    words = ["out=f", "backbone=resnet18", "features=c2", f"format={format}"]
    for number, folder in enumerate(("images", "same", "other")):
        Path(folder).mkdir(exist_ok=True)
        Image.new("RGB", (40, 36), (number // 2, 0, 0)).save(f"{folder}/x.png")
    assert main(["images/x.png", *words]) == main(["same/x.png", *words]) == 0
    assert main(["other/x.png", *words]) == 2
    assert "features of another image than other/x.png" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["images/f", "images/sub/../f"])
def test_own_output_is_never_read(images, out):
    words = ["images", f"out={out}", "visualize=true", *SMALL]
    assert main(words) == 0
    first = written(images / "images/f")
    assert first == {"a.npz", "a.png", "b.npz", "b.png", "sub/c.v2.npz", "sub/c.v2.png"}
    assert main(words) == 0
    assert written(images / "images/f") == first


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".JPE", ".webp", ".avif", ".ppm", ".npy"])
def test_files_of_many_formats_are_found(here, suffix):
    (here / "images").mkdir()
    if suffix == ".npy":
        np.save(here / "images/a.npy", np.zeros((36, 40, 3), np.uint8))
    else:
        draw(here / f"images/a{suffix}")
    assert main(["images", "out=f", *SMALL]) == 0
    assert np.load(here / "f/a.npz")["c2"].shape == (64, 9, 10)


def test_a_named_file_is_tried_whatever_its_suffix(here):
    draw(here / "photo.upload", format="PNG")
    assert main(["photo.upload", "out=f", *SMALL]) == 0
    assert written(here / "f") == {"photo.npz"}


def test_photos_are_turned_as_displayed(here):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(here / "turned.png", exif=exif)
    ImageOps.exif_transpose(Image.open(here / "turned.png")).save(here / "plain.png")
    assert main(["turned.png", "plain.png", "out=f", *SMALL]) == 0
    turned, plain = (np.load(here / f"f/{name}.npz")["c2"] for name in ("turned", "plain"))
    np.testing.assert_allclose(turned, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("words", [["image_channels=4"], ["model.in_channels=4"]])
def test_images_of_four_channels(here, words):
    np.save("a.npy", np.zeros((36, 40, 4), np.uint8))
    assert main(["a.npy", "out=f", "visualize=true", *words, *SMALL]) == 0
    assert written(here / "f") == {"a.npz", "a.png"}


def test_unreadable_images_can_be_skipped(image, capsys):
    (image / "images/x.jpg").write_bytes(b"no image")
    assert main(["images", "out=f", *SMALL]) == 2
    assert "skip_unreadable=true" in capsys.readouterr().err
    assert main(["images", "out=f", "skip_unreadable=true", *SMALL]) == 0
    assert "skipped 1 image(s), first: image images/x.jpg is unreadable" in capsys.readouterr().out
    assert written(image / "f") == {"a.npz"}


def test_a_large_image_needs_a_short_side(image, monkeypatch, capsys):
    monkeypatch.setattr(image_batches, "MAX_PIXELS", 1000)
    assert main(["images", "out=f", *SMALL]) == 2
    assert "short_side=" in capsys.readouterr().err
    assert not (image / "f").exists()
    assert main(["images", "out=f", "short_side=20", *SMALL]) == 0


@pytest.mark.parametrize("name", ["[bold]", "[/x]", ":smile:", "$_^$", "é 漢 🙂", "x" * 200])
def test_names_are_plain_text(here, name, capsys):
    folder = here / name.replace("/", "")
    folder.mkdir()
    draw(folder / "a.png")
    assert main([folder.name, f"out={folder.name} out", "visualize=true", *SMALL]) == 0
    assert folder.name[:40] in capsys.readouterr().out
    assert written(here / f"{folder.name} out") == {"a.npz", "a.png"}


def test_values_that_look_like_numbers_are_paths(image):
    assert main(["images", "out=2024", *SMALL]) == 0
    assert written(image / "2024") == {"a.npz"}


def test_the_usage_lists_every_key():
    text = usage([])
    assert "--help" not in text
    for name, field in Settings.model_fields.items():
        assert f"    {name} = " in text
        assert field.description


@pytest.mark.parametrize(
    "words, culprit, suggestion",
    [
        (["images"], "out=FOLDER", "missing"),
        (["images", "out=none"], "out", "str"),
        (["images", "out="], "out=FOLDER", "missing"),
        (["images", "out=f", "image_channels=3", "model.in_channels=4"], "image_channels=3", "in_channels=4"),
        (["out=f"], "images or folders", "none"),
        (["nowhere", "out=f"], "nowhere", "does not exist"),
        (["images", "out=f", "backbone=resnet17"], "'resnet17'", "resnet18"),
        (["images", "out=f", "formt=npz"], "'formt'", "did you mean format"),
        (["images", "out=f", "format=h5"], "'h5'", "one of 'npz', 'safetensors'"),
        (["images", "out=f", "batch_size=0"], "batch_size", "at least 1, got 0"),
        (["images", "out=f", "batch_size=true"], "batch_size", "int, got True"),
        (["images", "out=f", "visualize=no"], "visualize", "bool, got 'no'"),
        (["images", "out=f", "picture=true"], "'picture'", "known"),
        (["images", "out=f", "features=(c2,c7)"], "'c7'", "c5"),
        (["images", "out=f", "features=()"], "out_features", "at least one level"),
        (["images", "out=f", "image_range=(1,0)"], "image_range", "low < high"),
        (["images", "out=f", "model.depth=3"], "'depth'", "argument"),
        (["images", "out=f", "model.weights=x"], "model.weights", "use weights="),
        (["images", "out=f", "model.output_stride=a"], "model.output_stride", "'a'"),
        (["images", "out=f", "neck=true"], "neck=true", "weights="),
        (["images", "out=f", "weights=empty"], "last.pt", "does not exist"),
        (["images", "out=f", "imports=no_such_module"], "no_such_module", "import"),
        (["empty", "out=f"], "empty", "no image"),
        (["broken", "out=f"], "x.jpg", "unreadable"),
        (["images", "copy/a.jpg", "out=f"], "copy/a.jpg", "two folders"),
        (["images", "out=r18.pth"], "r18.pth", "is a file"),
        (["images", "out=r18.pth/f"], "r18.pth/f", "cannot be written to"),
        (["images", f"out={'n' * 300}"], "n...n", "cannot be written to"),
        (["images", "out=images"], "images", "choose another folder"),
        (["images/b.png", "out=images"], "images/b.png", "choose another folder"),
        (["images\nx", "out=f"], "images\\nx", "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, culprit, suggestion, images, capsys):
    for folder in ("empty", "broken", "copy"):
        (images / folder).mkdir()
    (images / "broken/x.jpg").write_bytes(b"no image")
    shutil.copy(images / "images/a.jpg", images / "copy/a.jpg")
    before = written(images)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert culprit in error
    assert suggestion in error
    assert error.count("\n") == 1
    assert written(images) == before
    assert not (images / "f").exists()


def test_a_folder_of_something_else_is_left_alone(image, capsys):
    (image / "f").mkdir()
    for content in (b"not JSON", b"\xff"):
        (image / "f/settings.json").write_bytes(content)
        assert main(["images", "out=f", *SMALL]) == 2
        assert "settings.json" in capsys.readouterr().err
        assert (image / "f/settings.json").read_bytes() == content


def test_a_link_to_itself_is_unreadable(image, capsys):
    (image / "images/loop.jpg").symlink_to("loop.jpg")
    assert main(["images", "out=f", *SMALL]) == 2
    assert "loop.jpg" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_ends_in_one_line(image, capsys):
    (image / "f").mkdir()
    (image / "f/a.npz.part").mkdir()
    assert main(["images", "out=f", *SMALL]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write f/a.npz")
    assert error.count("\n") == 1
