"""tools/inspect_weights.py: what a file is, what it means, and what it does not tell."""

import pickle

import pytest
import torch
import torchvision

from detbackbones import build_backbone
from detbackbones.tools.inspect_weights import main
from detbackbones.weights.inspection import summarise_modules
from detbackbones.weights.key_maps import DETECTRON2


def printed(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_wrappers_and_architecture_of_a_training_checkpoint(tmp_path, capsys):
    state = {f"module.{key}": value for key, value in torchvision.models.resnet34(num_classes=7).state_dict().items()}
    torch.save({"epoch": 3, "model": {"state_dict": state}}, tmp_path / "w.pth")
    text = printed(capsys, str(tmp_path / "w.pth"))
    for line in ("wrappers: model > state_dict", "holds: backbone", "ResNet-34 (resnet34)", "classifier: 7 classes"):
        assert line in text
    assert "epoch" in text
    layer4 = torchvision.models.resnet34().layer4
    values = sum(value.numel() for value in layer4.state_dict().values())
    assert f"{values:,} values" in next(line for line in text.splitlines() if "module.layer4" in line)


def test_what_is_unclear_is_said(tmp_path, capsys):
    state = DETECTRON2.export(torchvision.models.resnet50().state_dict())
    content = {"model": {key: value.numpy() for key, value in state.items()}}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    text = printed(capsys, str(tmp_path / "w.pkl"))
    assert "origin: detectron2" in text
    assert "unclear: " in text
    assert "stride_in_1x1" in text


def test_our_own_file_has_its_card_and_config(tmp_path, capsys, resnet18_weights):
    build_backbone("resnet18", weights=resnet18_weights).save_pretrained(tmp_path)
    text = printed(capsys, str(tmp_path))
    for line in ("origin: detbackbones", "holds: backbone resnet18", "library: torchvision", "config norm: frozen"):
        assert line in text


def test_every_tensor(capsys, resnet18_weights):
    text = printed(capsys, resnet18_weights, "all=true")
    lines = [line for line in text.splitlines() if "float32" in line or "int64" in line]
    assert len(lines) == len(torch.load(resnet18_weights))
    assert any(line.split()[0] == "conv1.weight" and line.endswith("(64, 3, 7, 7)") for line in lines)


def test_a_named_source_needs_no_download(capsys, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", None)
    text = printed(capsys, "detectron2:MSRA/R-50")
    assert "source_channel_order: BGR" in text
    assert "stride_in_1x1: True" in text
    assert "box AP" in printed(capsys, "detectron2:COCO-Detection/retinanet_R_50_FPN_1x")


@pytest.mark.parametrize(
    "content,culprit",
    [
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"", "empty"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path, content, culprit, capsys):
    (tmp_path / "w.pth").write_bytes(content)
    assert main([str(tmp_path / "w.pth")]) == 2
    error = capsys.readouterr().err
    assert culprit in error
    assert error.count("\n") == 1


def test_parts_of_keys():
    keys = [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer1.1.bn1.bias",
        "res2_0_branch2a_w",
        "res2_1_branch2b_w",
        "scale",
    ]
    parts = summarise_modules({key: torch.zeros(2) for key in keys})
    assert {name: part.tensors for name, part in parts.items()} == {"conv1": 1, "layer1": 2, "res2": 2, "scale": 1}
