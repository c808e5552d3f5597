"""detectron2's and mmdetection's own features: their checkpoints, in their formats, go in through `weights=`."""

import pickle

import numpy as np
import pytest
import torch
import yaml
from helpers import oracle, oracle_weights, relative_error, thinned

from detbackbones import build_backbone

# BGR networks of these libraries get BGR images; ours get the same images as RGB
BGR, RGB = "BGR", "RGB"
DETECTRON2 = {  # name -> backbone, channel order
    "r18": ("resnet18", RGB),
    "r50_caffe": ("resnet50", BGR),
    "r50_pytorch": ("resnet50", RGB),
    "r101_dc5_caffe": ("resnet101_dc5", BGR),
    "x101_32x8d": ("resnext101_32x8d", BGR),
}
MMDET = {
    "r50_caffe": ("resnet50", BGR),
    "r50_pytorch": ("resnet50", RGB),
    "r50_dc5_caffe": ("resnet50_dc5", BGR),
    "r101_os8_pytorch": ("resnet101_dilated", RGB),
    "r50_v1d": ("resnet50d", RGB),
    "x101_32x8d": ("resnext101_32x8d", BGR),
}


def check_features(facts, expected, weights, backbone, order, **arguments):
    """The features of an image are those of the library for the same image in its channel order."""
    built = build_backbone(backbone, weights=str(weights), **arguments).eval()
    image = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, 97, 130)).astype(np.float32))
    with torch.no_grad():
        features = built(image.flip(1) if order == BGR else image)
    assert [list(feature.shape) for feature in features.values()] == list(facts["outputs"].values())
    for feature, theirs in zip(features.values(), expected.values(), strict=True):
        assert relative_error(thinned(feature), theirs) <= 1e-5
    assert built.weight_card.source_channel_order == order


def write_detectron2(folder, facts, order, with_config):
    """Write a checkpoint as detectron2's model zoo has them, alone or with the config beside it."""
    arrays = {f"backbone.bottom_up.{key}": value.numpy() for key, value in oracle_weights(facts["keys"]).items()}
    with open(folder / "model_final.pkl", "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file)
    if with_config:
        settings = {key.removeprefix("MODEL.RESNETS."): value for key, value in facts["settings"].items()}
        config = {"INPUT": {"FORMAT": order}, "MODEL": {"RESNETS": settings}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "model_final.pkl"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "x101_32x8d" else name for name in DETECTRON2]
)
def test_detectron2_with_its_config(name, oracles, tmp_path):
    facts, expected = oracle(oracles, f"detectron2_{name}")
    backbone, order = DETECTRON2[name]
    weights = write_detectron2(tmp_path, facts, order, with_config=True)
    check_features(facts, expected, weights, backbone, order)


@pytest.mark.parametrize("name,caffe", [("r50_caffe", True), ("r50_pytorch", False)])
def test_detectron2_with_arguments(name, caffe, oracles, tmp_path):
    facts, expected = oracle(oracles, f"detectron2_{name}")
    backbone, order = DETECTRON2[name]
    weights = write_detectron2(tmp_path, facts, order, with_config=False)
    check_features(facts, expected, weights, backbone, order, stride_in_1x1=caffe, channel_order=order)


def write_mmdet(path, facts, order):
    """Write a checkpoint as mmengine does: a state dict with the config beside it as text."""
    backbone = ", ".join(f"{key}={value!r}" for key, value in facts["settings"].items())
    images = f"mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb={order == RGB}"
    text = f"model = dict(type='FasterRCNN', data_preprocessor=dict({images}), backbone=dict({backbone}))\n"
    state = {f"backbone.{key}": value for key, value in oracle_weights(facts["keys"]).items()}
    state["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    torch.save({"meta": {"mmengine_version": "0.10.7", "cfg": text}, "state_dict": state}, path)
    return path


@pytest.mark.parametrize(  # the ResNeXt is also detectron2's, whose 89 million weights are enough for a quick run
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "x101_32x8d" else name for name in MMDET]
)
def test_mmdetection(name, oracles, tmp_path):
    facts, expected = oracle(oracles, f"mmdet_{name}")
    backbone, order = MMDET[name]
    check_features(facts, expected, write_mmdet(tmp_path / "epoch_12.pth", facts, order), backbone, order)
