"""detectron2's and mmdetection's own features, through the arguments that describe their networks."""

import numpy as np
import pytest
import torch
from helpers import build_meta, oracle, oracle_weights, relative_error, thinned

CAFFE = dict(stride_in_1x1=True)
ORACLES = {
    "detectron2_r18": dict(type="resnet18"),
    "detectron2_r50_pytorch": dict(type="resnet50"),
    "detectron2_r50_caffe": dict(type="resnet50", **CAFFE),
    "detectron2_r101_dc5_caffe": dict(type="resnet101_dc5", dilation_convention="detectron2", **CAFFE),
    "detectron2_x101_32x8d": dict(type="resnext101_32x8d"),
    "mmdet_r50_pytorch": dict(type="resnet50"),
    "mmdet_r50_caffe": dict(type="resnet50", **CAFFE),
    "mmdet_r50_dc5_caffe": dict(type="resnet50_dc5", dilation_convention="mmdet", **CAFFE),
    "mmdet_r101_os8_pytorch": dict(type="resnet101_dilated", dilation_convention="mmdet"),
    "mmdet_x101_32x8d": dict(type="resnext101_32x8d"),
    "mmdet_r50_v1d": dict(type="resnet50d"),
}
RENAMED_KEYS = [
    # detectron2
    ("stem.conv1.norm.", "bn1."),
    ("stem.conv1.", "conv1."),
    *((f"res{level}.", f"layer{level - 1}.") for level in (2, 3, 4, 5)),
    (".shortcut.norm.", ".downsample.1."),
    (".shortcut.", ".downsample.0."),
    *((f".conv{i}.norm.", f".bn{i}.") for i in (1, 2, 3)),
    # mmdetection's deep stem
    ("stem.7.", "bn1."),
    ("stem.", "conv1."),
]


def rename(key: str) -> str:
    for theirs, ours in RENAMED_KEYS:
        key = key.replace(theirs, ours)
    return key


@pytest.mark.parametrize("name", ORACLES)
def test_features_are_those_of_the_library(name, oracles):
    facts, expected = oracle(oracles, name)
    state = {rename(key): value for key, value in oracle_weights(facts["keys"]).items()}
    backbone = build_meta(ORACLES[name]).eval()
    report = backbone.load_state_dict(state, strict=False, assign=True)
    assert not report.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in report.missing_keys)
    images = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, 97, 130)).astype(np.float32))
    with torch.no_grad():
        features = backbone(images)
    assert [list(feature.shape) for feature in features.values()] == list(facts["outputs"].values())
    for feature, theirs in zip(features.values(), expected.values(), strict=True):
        assert relative_error(thinned(feature), theirs) <= 1e-5
