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
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "images/sub").mkdir(parents=True)
    for name, size in (("a.jpg", (70, 50)), ("b.png", (40, 64)), ("sub/c.v2.jpg", (70, 50))):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    return tmp_path


def test_features_are_the_backbones(here, capsys):
    assert main(["images", "out=f", "backbone=resnet18_dc5", "weights=r18.pth", "features=(c1,c3,c5)", "batch_size=2"]) == 0
    assert "random" not in capsys.readouterr().out
    backbone = build_backbone("resnet18_dc5", weights="r18.pth", out_features=("c1", "c3", "c5")).eval()
    for name in ("a.jpg", "b.png", "sub/c.v2.jpg"):
        saved = np.load(here / "f" / (name.rsplit(".", 1)[0] + ".npz"))
        image = torch.from_numpy(np.array(Image.open(here / "images" / name).convert("RGB"))).permute(2, 0, 1)
        with torch.no_grad():
            features = backbone(backbone.preprocess(image[None]))
        assert sorted(saved.files) == ["c1", "c3", "c5", "specs"]
        for level, feature in features.items():
            np.testing.assert_allclose(saved[level], feature[0].numpy(), rtol=1e-4, atol=1e-5)
        assert [(s["name"], s["stride"], s["dilation"]) for s in json.loads(str(saved["specs"]))] == [
            ("c1", 2, 1), ("c3", 8, 1), ("c5", 16, 2)]  # fmt: skip


def test_safetensors_a_neck_and_pictures(here, capsys):
    assert main(["images/a.jpg", "out=f", "backbone=resnet18", "neck=fpn", "format=safetensors", "picture=true", "short_side=64"]) == 0
    printed = capsys.readouterr().out
    assert "the backbone has random weights" in printed and "the neck has random weights" in printed
    with safe_open(here / "f/a.safetensors", "np") as file:
        assert sorted(file.keys()) == ["c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6"]
        specs = {s["name"]: s for s in json.loads(file.metadata()["specs"])}
        for level in file.keys():
            assert file.get_tensor(level).shape[0] == specs[level]["channels"]
        assert file.get_tensor("p2").shape == (256, 16, 23)
    picture = Image.open(here / "f/a.png").convert("RGB")
    assert len(picture.getcolors(2**24)) > 500


def test_goes_on_where_it_stopped(here, capsys):
    run = ["images", "out=f", "backbone=resnet18", "features=c2"]
    assert main(run) == 0
    first = {p: p.stat().st_mtime_ns for p in (here / "f").rglob("*.npz")}
    kept = np.load(here / "f/b.npz")["c2"]
    (here / "f/b.npz").unlink()
    (here / "f/b.npz.part").write_bytes(b"cut off")
    assert main(run) == 0
    assert "2 of 3 images are there already" in capsys.readouterr().out
    second = {p: p.stat().st_mtime_ns for p in (here / "f").rglob("*.npz")}
    assert {p.name for p in second if first[p] != second[p]} == {"b.npz"}
    np.testing.assert_array_equal(np.load(here / "f/b.npz")["c2"], kept)  # random weights, but the same ones
    assert main([*run, "model.output_stride=8"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize("arguments,message", [
    (["images"], "out=FOLDER"), (["out=f"], "name images"), (["nowhere", "out=f"], "nowhere does not exist"),
    (["images", "out=f", "backbone=resnet17"], "did you mean resnet18"), (["images", "out=f", "formt=npz"], "did you mean format"),
    (["images", "out=f", "format=h5"], "known: npz, safetensors"), (["images", "out=f", "batch_size=0"], "batch_size=0"),
    (["images", "out=f", "features=(c2,c7)"], "unknown feature 'c7'"), (["images", "out=f", "model.depth=3"], "no argument 'depth'"),
    (["empty", "out=f"], "holds no image"), (["broken", "out=f"], "x.jpg is unreadable"),
    (["images", "copy/a.jpg", "out=f"], "two folders"),
])  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(here, capsys, arguments, message):
    for folder in ("empty", "broken", "copy"):
        (here / folder).mkdir()
    (here / "broken/x.jpg").write_bytes(b"no image")
    shutil.copy(here / "images/a.jpg", here / "copy/a.jpg")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (here / "f").exists()
