"""Frozen parts: fixed parameters and statistics that `.train()` does not release."""

import copy

import pytest
import torch
from helpers import input_error

from detbackbones import build_backbone

PARTS = [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]


def changed_parts(backbone) -> set[str]:
    """Run a training step after both modes; return the modules whose parameters or statistics changed."""
    before = copy.deepcopy(backbone.state_dict())
    for mode in (False, True):
        backbone.train(mode)
        features = backbone(torch.randn(2, 3, 32, 32))
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    if trained:
        sum(feature.square().mean() for feature in features.values()).backward()
        torch.optim.SGD(trained, lr=0.1).step()
    return {key.split(".")[0] for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize(
    "norm,freeze", [*((norm, freeze) for norm in (None, "batch") for freeze in range(6)), ("batch_eval", 2)]
)
def test_exactly_the_parts_that_are_not_frozen_change(resnet18_weights, norm, freeze):
    changed = changed_parts(build_backbone("resnet18", weights=resnet18_weights, norm=norm, freeze=freeze))
    assert not changed & set().union(*PARTS[:freeze])
    assert all(changed & part for part in PARTS[freeze:])


def test_freeze_as_a_method():
    """detectron2's `backbone.freeze(2)`."""
    backbone = build_backbone("resnet18")
    assert backbone.freeze(2) is backbone
    assert backbone.frozen_count == 2
    assert not changed_parts(backbone) & {"conv1", "bn1", "layer1"}


def test_freezing_takes_effect_without_a_call_of_train():
    backbone = build_backbone("resnet18").train().freeze(2)
    assert not backbone.bn1.training
    assert not backbone.layer1[0].bn1.training
    assert backbone.layer2[0].bn1.training


def test_a_frozen_backbone_keeps_its_own_mode():
    assert not build_backbone("resnet18").eval().freeze(1).training
    assert build_backbone("resnet18").train().freeze(1).training


def test_frozen_parts_build_no_graph(resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights, freeze=3).train()
    features = backbone(torch.randn(1, 3, 64, 64))
    assert [feature.requires_grad for feature in features.values()] == [False, False, True, True]


@pytest.mark.parametrize("count", [6, -1, 1.5])
def test_a_wrong_number_of_parts(count):
    with input_error("freeze", "0 to 5", str(count)):
        build_backbone("resnet18").freeze(count)
