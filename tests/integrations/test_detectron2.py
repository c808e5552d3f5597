"""Against detectron2 if it is installed, or else against a stand-in with its interface (it is not on PyPI)."""

import importlib

import detectron2_stand_in
import pytest
import torch
from helpers import input_error

from detbackbones import build_backbone


@pytest.fixture
def plug(detectron2_plug):
    return detectron2_plug


@pytest.fixture
def cfg(plug):
    """A config of detectron2 for its pyramid on c2 to c5."""
    cfg = importlib.import_module("detectron2.config").get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def build(cfg):
    return importlib.import_module("detectron2.modeling").build_backbone(cfg)


def test_features_are_ours_through_the_registry(plug, cfg, source, images):
    arguments = {name: value for name, value in source.items() if name != "type"}
    plug.add_detbackbones_config(cfg, "resnet18_dilated", freeze=1, **arguments)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res5"]
    backbone = build(cfg).eval()
    ours = build_backbone(source, out_features=("c3", "c5")).eval()
    features, expected = backbone(images), ours(images)
    assert list(features) == ["res3", "res5"]
    assert all(torch.equal(a, b) for a, b in zip(features.values(), expected.values(), strict=True))
    assert {name: (spec.channels, spec.stride) for name, spec in backbone.output_shape().items()} == {
        "res3": (128, 8),
        "res5": (512, 8),
    }
    assert backbone.size_divisibility == backbone.padding_constraints["size_divisibility"] == 8
    assert backbone.state_dict().keys() == ours.state_dict().keys()
    assert not backbone.body.conv1.weight.requires_grad and backbone.body.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize("name", ["build_detbackbones_fpn_backbone", "build_retinanet_detbackbones_fpn_backbone"])
def test_detectron2s_pyramid_trains_on_it(name, plug, cfg, images):
    plug.add_detbackbones_config(cfg, "resnet18")
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    model = build(cfg)
    outputs = model(images)
    assert {"p2", "p3", "p4", "p5"} <= set(outputs)
    sum(feature.sum() for feature in outputs.values()).backward()
    assert model.bottom_up.body.conv1.weight.grad.abs().max() > 0
    assert "bottom_up.conv1.weight" in model.state_dict()
    assert isinstance(model.top_block, plug.LastLevelP6P7 if "retinanet" in name else plug.LastLevelMaxPool)


def test_images_of_the_config_are_normalised_for_the_weights(run, plug, cfg):
    folder, _ = run
    plug.add_detbackbones_config(cfg, folder)
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([25.5, 51, 76.5])
    assert cfg.MODEL.PIXEL_STD == pytest.approx([127.5, 153, 178.5])
    assert build(cfg).output_shape()["res5"].stride == 16


def test_mistakes(plug, cfg):
    with input_error("res6", "res5"):
        plug.DetBackbonesBackbone("resnet18", out_features=["res6"])
    with input_error("depth", "resnet18"):
        plug.add_detbackbones_config(cfg, "resnet18", depth=50)


def test_which_detectron2_was_used(plug, record_property):
    is_installed = plug.BACKBONE_REGISTRY is not detectron2_stand_in.REGISTRY
    record_property("detectron2", "installed" if is_installed else "stand-in")
    if not is_installed:
        pytest.skip("detectron2 is not installed: the tests above used a stand-in with its interface")
