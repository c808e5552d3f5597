"""What every integration takes as its backbone, and what it says when a framework is not installed."""

import subprocess
import sys

import pytest
import torch
from helpers import input_error

from detbackbones import build_backbone
from detbackbones.integrations.source import MissingPackageError, backbone_config, build_source, required


def test_a_run_gives_its_trained_backbone(run, images):
    folder, detector = run
    config = backbone_config(folder)
    assert (config["type"], config["weights"]) == ("resnet18_dc5", folder)
    backbone = build_source(folder, out_features=("c4",)).eval()
    assert torch.equal(backbone(images)["c4"], detector.backbone(images)["c4"])
    assert backbone.preprocess.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_names_configs_and_built_backbones():
    assert backbone_config("resnet50_dilated") == {"type": "resnet50_dilated"}
    given = dict(type="resnet18", out_features=("c2",))
    assert backbone_config(given) == given
    assert build_source(given, in_channels=1).preprocess.channels == 1
    built = build_backbone("resnet18")
    assert build_source(built) is built


def test_what_is_not_a_backbone(resnet18_weights):
    with input_error("resnet50_dilatd", "resnet50_dilated"):
        backbone_config("resnet50_dilatd")
    with input_error("runs/no_such_run", "does not exist"):
        backbone_config("runs/no_such_run")
    with input_error("not a run", "resnet18.pth"):
        backbone_config(resnet18_weights)
    with input_error("built ResNet"):
        build_source(build_backbone("resnet18"), out_features=("c2",))


def test_only_the_missing_package_itself_is_reported():
    with pytest.raises(MissingPackageError, match="no_such_package.*pip install"), required("no_such_package"):
        import no_such_package  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="another"), required("no_such_package"):
        raise ModuleNotFoundError("another", name="another")


def test_frameworks_are_imported_only_when_asked_for_and_missing_ones_are_named():
    code = """
import importlib, sys
import detbackbones, detbackbones.integrations
detbackbones.list_backbones()
packages = {"transformers": "transformers", "smp": "segmentation_models_pytorch"}
packages |= {"sahi": "sahi", "detectron2": "detectron2"}
assert not set(packages.values()) & set(sys.modules)
for module, package in packages.items():
    sys.modules[package] = None
    try:
        importlib.import_module(f"detbackbones.integrations.{module}")
    except detbackbones.InputError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(",")[0].split()[-1] for line in lines] == [
        "transformers", "segmentation_models_pytorch", "sahi", "detectron2",
    ]  # fmt: skip
    assert all("install" in line for line in lines)
