"""Bad input of `detbackbones export` ends with one line, before anything is built or written."""

import importlib.util

import pytest
from saved_runs import save_run

from detbackbones.tools.cli import main

CLASSES = {"category_ids": [3, 7], "category_names": ["cat", "dog"]}


def error_of(capsys, *words: str) -> str:
    assert main(["export", *words]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_a_misspelt_key(capsys, tmp_path):
    assert "part" in error_of(capsys, "resnet18", f"out={tmp_path}/a.onnx", "prat=backbone")


def test_out_is_missing(capsys):
    assert "out=FILE.onnx" in error_of(capsys, "resnet18")


@pytest.mark.parametrize(
    "name,reason", [("a.pt", ".onnx"), ("nowhere/a.onnx", "not a folder"), ("b.onnx", "overwrite")]
)
def test_out_cannot_be_written(capsys, tmp_path, name, reason):
    (tmp_path / "b.onnx").write_text("precious")
    assert reason in error_of(capsys, "resnet18", f"out={tmp_path}/{name}")
    assert (tmp_path / "b.onnx").read_text() == "precious"


def test_the_predictor_exists(capsys, tmp_path):
    (tmp_path / "onnx_predictor.py").write_text("precious")
    assert "onnx_predictor.py exists" in error_of(capsys, "resnet18", f"out={tmp_path}/a.onnx", "predictor=true")


@pytest.mark.parametrize("words", [["part=neck"], ["part=detector"], ["predictor=true"]])
def test_a_backbone_is_not_a_detector(capsys, tmp_path, words):
    assert "backbone" in error_of(capsys, "resnet18", f"out={tmp_path}/a.onnx", *words)
    assert not list(tmp_path.iterdir())


def test_a_run_has_its_own_weights(capsys, tmp_path):
    save_run(tmp_path / "run", "fpn", CLASSES)
    assert "weights=" in error_of(capsys, str(tmp_path / "run"), f"out={tmp_path}/a.onnx", "weights=other.pt")


def test_an_unknown_source(capsys, tmp_path):
    assert "resnet19" in error_of(capsys, "resnet19", f"out={tmp_path}/a.onnx")


def test_onnx_is_not_installed(capsys, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    assert "pip install 'detbackbones[export]'" in error_of(capsys, "resnet18", f"out={tmp_path}/a.onnx")
    assert not list(tmp_path.iterdir())


def test_parts_of_another_kind(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("detbackbones.detectors.export_forms.EXPORT_FORMS", {})
    save_run(tmp_path / "run", "fpn", CLASSES)
    assert "FasterRCNN cannot be exported" in error_of(capsys, str(tmp_path / "run"), f"out={tmp_path}/a.onnx")
    assert not (tmp_path / "a.onnx").exists()
