"""tools/extract_features.py as a user meets it."""

import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open

from detbackbones import build_backbone
from detbackbones.tools.extract_features import main


@pytest.fixture
def images(here):
    """Three images of two sizes, and the weights of a ResNet-18."""
    rng = np.random.default_rng(0)
    (here / "images/sub").mkdir(parents=True)
    for name, (width, height) in (("a.jpg", (70, 50)), ("b.png", (40, 64)), ("sub/c.v2.jpg", (70, 50))):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "images" / name)
    torch.save(torchvision.models.resnet18().state_dict(), here / "r18.pth")
    return here


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
        assert sorted(saved.files) == ["c1", "c3", "c5", "specs"]
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


@pytest.mark.parametrize(
    "words, culprit, suggestion",
    [
        (["images"], "out=FOLDER", "missing"),
        (["out=f"], "images or folders", "none"),
        (["nowhere", "out=f"], "nowhere", "does not exist"),
        (["images", "out=f", "backbone=resnet17"], "'resnet17'", "resnet18"),
        (["images", "out=f", "formt=npz"], "'formt'", "did you mean format"),
        (["images", "out=f", "format=h5"], "'h5'", "npz, safetensors"),
        (["images", "out=f", "batch_size=0"], "batch_size", "at least 1, got 0"),
        (["images", "out=f", "features=(c2,c7)"], "'c7'", "c5"),
        (["images", "out=f", "model.depth=3"], "'depth'", "argument"),
        (["images", "out=f", "imports=no_such_module"], "no_such_module", "import"),
        (["empty", "out=f"], "empty", "no image"),
        (["broken", "out=f"], "x.jpg", "unreadable"),
        (["images", "copy/a.jpg", "out=f"], "copy/a.jpg", "two folders"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, culprit, suggestion, images, capsys):
    for folder in ("empty", "broken", "copy"):
        (images / folder).mkdir()
    (images / "broken/x.jpg").write_bytes(b"no image")
    shutil.copy(images / "images/a.jpg", images / "copy/a.jpg")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert culprit in error
    assert suggestion in error
    assert error.count("\n") == 1
    assert not (images / "f").exists()
