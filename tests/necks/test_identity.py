import pytest
import torch
from helpers import input_error, maps
from neck_helpers import declared

from detbackbones import build_neck

SPECS = declared((4, 8, 16, 32))


@pytest.mark.parametrize(
    "in_features,names", [(None, ["c2", "c3", "c4", "c5"]), (("c5",), ["c5"]), (("c4", "c3"), ["c3", "c4"])]
)
def test_levels_of_the_backbone_are_returned_unchanged(in_features, names):
    neck = build_neck(dict(type="identity", in_features=in_features), SPECS)
    features = maps(SPECS, 64, 64)
    outputs = neck(features)
    assert list(outputs) == names
    assert [spec.name for spec in neck.feature_specs] == names
    assert all(outputs[name] is features[name] for name in names)


def test_specs_are_the_backbones():
    assert build_neck("identity", SPECS).feature_specs == tuple(SPECS)


def test_it_has_no_parameters():
    assert not build_neck("identity", SPECS).state_dict()


def test_extra_maps_are_dropped():
    assert list(build_neck("identity", SPECS[2:])(maps(SPECS, 64, 64))) == ["c4", "c5"]


@pytest.mark.parametrize(
    "cfg,words",
    [
        (dict(in_features=("c6",)), ("in_features", "'c6'")),
        (dict(out_channels=3), ("'out_channels'",)),
    ],
)
def test_bad_arguments(cfg, words):
    with input_error(*words):
        build_neck(dict(type="identity") | cfg, SPECS)


def test_gradients_pass():
    features = {name: feature.requires_grad_() for name, feature in maps(SPECS, 64, 64).items()}
    build_neck("identity", SPECS)(features)["c5"].sum().backward()
    assert torch.equal(features["c5"].grad, torch.ones_like(features["c5"]))
