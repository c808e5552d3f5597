import json
import os
import tomllib
from importlib.metadata import version
from pathlib import Path

import torch

from detbackbones.engine.environment import describe_environment, save_environment

ROOT = Path(__file__).resolve().parents[2]


def test_versions_are_those_of_the_packages():
    found = describe_environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == version("numpy")
    assert found["devices"]["cpu"]["threads"] == torch.get_num_threads()
    assert 1 <= found["devices"]["cpu"]["cores"] <= os.cpu_count()
    assert len(found["devices"]["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_packages_are_the_declared_ones():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = [*declared, 'onnx>=1.17; extra == "export"']
    found = describe_environment(lambda name: lines)["packages"]
    assert "hotcoco" in found and "onnx" not in found
    assert list(found) == [line.partition(">")[0] for line in declared]


def test_it_is_saved_as_json(tmp_path):
    save_environment(tmp_path)
    assert json.loads((tmp_path / "environment.json").read_text()) == describe_environment()
