"""State dicts of other programs: wrappers, prefixes, libraries and structure are recognised from keys and shapes."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import input_error

from detbackbones.errors import InputError
from detbackbones.weights.key_maps import DETECTRON2
from detbackbones.weights.recognition import convert_backbone, peel, recognise

PREFIXES = (
    "",
    "module.",
    "_orig_mod.",
    "backbone.",
    "backbone.body.",
    "backbone.bottom_up.",
    "encoder.",
    "model.",
    "model.backbone.",
    "module._orig_mod.model.encoder.",
)


def meta_state(name, library=torchvision.models):
    with torch.device("meta"):
        return getattr(library, name)().state_dict()


@pytest.fixture(scope="module")
def state():
    return meta_state("resnet18")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(state, prefix):
    prefixed = {prefix + key: value for key, value in state.items()}
    origin = recognise(prefixed)
    assert (origin.prefix, origin.library, origin.architecture.name) == (prefix, "torchvision", "resnet18")
    assert convert_backbone(prefixed, origin).keys() == state.keys()


@pytest.mark.parametrize(
    "wrap,wrappers",
    [
        (lambda s: s, ()),
        (lambda s: {"model": s, "optimizer": {"lr": 0.1}}, ("model",)),
        (lambda s: {"state_dict": s, "epoch": 3}, ("state_dict",)),
        (lambda s: {"model_state_dict": s}, ("model_state_dict",)),
        (lambda s: {"student": {"a": 1}, "teacher": s}, ("teacher",)),
        (lambda s: {"model": {"x": torch.zeros(1)}, "ema": {"module": s}}, ("ema", "module")),
        (lambda s: {"model": {"x": torch.zeros(1)}, "model_ema": s}, ("model_ema",)),
        (lambda s: {"state_dict": {"x": torch.zeros(1)}, "state_dict_ema": s}, ("state_dict_ema",)),
        (lambda s: {"state_dict": s, "ema_state_dict": {"steps": torch.zeros(1)}}, ("state_dict",)),  # mmengine swaps
        (lambda s: {"model": {"state_dict": s}}, ("model", "state_dict")),
    ],
)
def test_wrappers(state, wrap, wrappers):
    peeled = peel(wrap(state), "w.pth")
    assert peeled.wrappers == wrappers
    assert peeled.state.keys() == state.keys()


def test_what_lies_beside_a_state_dict_is_kept(state):
    assert peel({"state_dict": state, "meta": {"epoch": 1}}, "w.pth").notes == {"meta": {"epoch": 1}}


def test_arrays_become_tensors():
    peeled = peel({"model": {"conv1_w": np.ones((2, 3), np.float32)}, "__author__": "x"}, "w.pkl")
    assert torch.equal(peeled.state["conv1_w"], torch.ones(2, 3))


@pytest.mark.parametrize("content", [{}, [1], {"epoch": 1}, {"model": {"lr": 0.1}}, {"model": {}}])
def test_a_file_without_state_dict(content):
    with input_error("w.pth", "does not hold a state dict"):
        peel(content, "w.pth")


@pytest.mark.parametrize(
    "name", ["resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_64x4d", "wide_resnet50_2"]
)
def test_the_architectures_of_torchvision(name):
    origin = recognise(meta_state(name))
    assert origin.architecture.name == name
    assert origin.architecture.num_classes == 1000


@pytest.mark.parametrize("name", ["resnet18d", "resnet50d", "resnext101_32x8d", "wide_resnet101_2"])
def test_the_architectures_of_timm(name):
    with torch.device("meta"):
        origin = recognise(timm.create_model(name).state_dict())
    assert origin.architecture.name == name


@pytest.mark.parametrize(
    "name,words",
    [
        ("seresnet50", "squeeze-and-excitation"),
        ("resnext50d_32x4d", ""),  # not among our variants
        ("resnet50c", ""),
        ("resnet50t", "other widths in the stem"),
    ],
)
def test_networks_that_have_no_name_here(name, words):
    with torch.device("meta"):
        architecture = recognise(timm.create_model(name).state_dict()).architecture
    assert architecture.name == ""
    assert architecture.extra == words


def test_a_file_without_a_residual_network():
    with input_error("w.pth", "residual network", "blocks.0.attn.qkv.weight"):
        recognise({"blocks.0.attn.qkv.weight": torch.zeros(1)}, "w.pth")


def test_two_networks_in_a_file_are_not_guessed_between(state):
    both = {f"{prefix}{key}": value for key, value in state.items() for prefix in ("encoder_q.", "encoder_k.")}
    with input_error("2 residual networks", "'encoder_q.'", "'encoder_k.'"):
        recognise(both, "moco.pth")


@pytest.mark.parametrize("head,library", [("neck.lateral_convs.0.conv.weight", "mmdet"), ("rpn.head.conv.weight", "")])
def test_detectors(state, head, library):
    detector = {f"backbone.{key}": value for key, value in state.items()} | {head: torch.zeros(1)}
    origin = recognise(detector)
    assert origin.is_detector
    assert origin.library == (library or "torchvision")
    assert not recognise(state).is_detector


def test_the_last_stage_in_the_heads_of_detectron2s_c4_form(state):
    theirs = DETECTRON2.export({key: value for key, value in state.items() if not key.startswith("fc.")})
    c4 = {
        (f"roi_heads.{key}" if key.startswith("res5.") else f"backbone.{key}"): value for key, value in theirs.items()
    }
    c4 = {f"module.{key}": value for key, value in c4.items()}
    origin = recognise(c4)
    assert origin.architecture.layers == (2, 2, 2, 2)
    assert convert_backbone(c4, origin).keys() == {key for key in state if not key.startswith("fc.")}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2s_keys_go_there_and_back(name):
    state = meta_state(name)
    theirs = DETECTRON2.export(state)
    assert "stem.conv1.norm.running_var" in theirs
    assert not {key for key in theirs if "layer" in key or ".bn" in key}
    assert list(DETECTRON2.convert(theirs)) == list(state)


def test_keys_that_become_the_same_are_an_error():
    with pytest.raises(InputError, match="two keys"):
        DETECTRON2.convert({"stem.fc.weight": 1, "linear.weight": 2})
