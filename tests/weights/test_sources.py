"""Files of weights, and the errors when they cannot be read; downloads are in test_named_downloads.py."""

import pytest
import torch
from helpers import input_error
from safetensors.torch import save_file

from detbackbones.weights.backbone_weights import read_backbone
from detbackbones.weights.sources import read_file


@pytest.fixture(scope="module")
def state(resnet18_weights):
    return torch.load(resnet18_weights, weights_only=True)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(
    "source,architecture,words",
    [
        ("torchvision:IMAGENET1K_V3", "resnet18", ("'IMAGENET1K_V3'", "did you mean IMAGENET1K_V1")),
        ("torchvision:IMAGENET1K_V1", "resnet50d", ("resnet50d",)),
        ("nowhere.pth", "resnet18", ("nowhere.pth", "torchvision:")),
    ],
)
def test_bad_sources(source, architecture, words):
    with input_error(*words):
        read_backbone(source, architecture)


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_file_of_torch_save(tmp_path, state, key):
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "w.pth")
    assert same(read_file(tmp_path / "w.pth"), state)


def test_a_file_of_safetensors(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    assert same(read_file(tmp_path / "w.safetensors"), state)


def write_text(path):
    path.write_text("hello")


def write_object(path):
    torch.save({"net": torch.nn.Linear(1, 1)}, path)


def write_numbers(path):
    torch.save({"lr": 0.1}, path)


@pytest.mark.parametrize("write", [write_text, write_object, write_numbers])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_other_files_are_an_error(tmp_path, write, name):
    write(tmp_path / name)
    with input_error(name):
        read_file(tmp_path / name)


def test_values_that_are_not_finite_are_an_error(tmp_path):
    torch.save({"conv1.weight": torch.full((2, 2), float("nan"))}, tmp_path / "w.pth")
    with input_error("w.pth", "not finite", "conv1.weight"):
        read_file(tmp_path / "w.pth")
