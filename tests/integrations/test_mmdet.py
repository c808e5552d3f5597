"""Against mmengine's registry, which mmdetection's `MODELS` is a child of; mmdetection itself is not installed."""

import pytest
import torch
from helpers import input_error
from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from detbackbones import build_backbone, list_backbones
from detbackbones.integrations.mmdet import DETBACKBONES, data_preprocessor

MMDET_MODELS = Registry("model", parent=MODELS, scope="mmdet_in_this_test")


def test_features_are_ours_through_the_registry_of_another_project(source, images):
    config = Config(dict(model=source | dict(type="detbackbones.resnet18_dilated", out_features=("c3", "c5"))))
    plug = MMDET_MODELS.build(config.model)
    ours = build_backbone(source, out_features=("c3", "c5"))
    outputs = plug.eval()(images)
    assert isinstance(outputs, tuple)
    assert all(torch.equal(a, b) for a, b in zip(outputs, ours.eval()(images).values(), strict=True))
    assert list(plug.state_dict()) == list(ours.state_dict())
    assert [spec.channels for spec in plug.feature_specs] == [128, 512]


def test_every_backbone_is_registered():
    assert set(DETBACKBONES.module_dict) == {*list_backbones(), "run"} - {"timm"}
    assert MODELS.get("detbackbones.resnet101_dilated") is not None


def test_frozen_parts_and_statistics_survive_train(source, images):
    plug = MMDET_MODELS.build(source | dict(type="detbackbones.resnet18", freeze=2, norm="batch_eval")).train()
    before = {name: buffer.clone() for name, buffer in plug.named_buffers()}
    sum(feature.sum() for feature in plug(images)).backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in plug.named_buffers())
    trained = {name.split(".")[1] for name, value in plug.named_parameters() if value.grad is not None}
    assert trained == {"layer2", "layer3", "layer4"}


def test_init_weights_keeps_weights_or_loads_those_of_init_cfg(source, images, resnet18_weights):
    loaded = MMDET_MODELS.build(source | dict(type="detbackbones.resnet18"))
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    loaded.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())
    init_cfg = dict(type="Pretrained", checkpoint=resnet18_weights)
    plain = MMDET_MODELS.build(dict(type="detbackbones.resnet18", init_cfg=init_cfg))
    plain.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


def test_a_run_and_its_data_preprocessor(run, images):
    folder, detector = run
    plug = MMDET_MODELS.build(dict(type="detbackbones.run", backbone=folder)).eval()
    assert torch.equal(plug(images)[-1], detector.backbone(images)["c5"])
    arguments = data_preprocessor(plug.body)
    assert arguments["mean"] == pytest.approx([25.5, 51, 76.5])
    assert arguments["std"] == pytest.approx([127.5, 153, 178.5])
    assert (arguments["bgr_to_rgb"], arguments["pad_size_divisor"]) == (True, 16)


def test_mistakes():
    with input_error("out_indices", "resnet18"):
        MMDET_MODELS.build(dict(type="detbackbones.resnet18", out_indices=(1,)))
    with pytest.raises(KeyError, match="resnet19"):
        MMDET_MODELS.build(dict(type="detbackbones.resnet19"))
