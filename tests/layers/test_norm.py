"""Norm layers by name: what each of them trains, defaults, and conversion of built models."""

import copy

import pytest
import torch
import torchvision
from helpers import input_error, randomise, relative_error
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detbackbones import build_backbone
from detbackbones.layers.norm import (
    NORMS,
    BatchNormEval2d,
    check_sync_norms,
    convert_norm,
    keep_running_statistics,
    resolve_norm,
)


@pytest.mark.parametrize(
    "norm,statistics_move,affine_trains",
    [
        (None, False, False),
        ("frozen", False, False),
        ("batch", True, True),
        ("batch_eval", False, True),
        ("sync", True, True),
    ],
)
def test_what_each_norm_trains(resnet18_weights, norm, statistics_move, affine_trains):
    backbone = build_backbone("resnet18", weights=resnet18_weights, norm=norm, out_features=("c2",)).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))["c2"].square().mean().backward()
    moved = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("running_var" in key for key in moved) == statistics_move
    assert any("bn" in name for name in trained) == affine_trains
    assert "conv1.weight" in trained


def test_batch_norm_with_fixed_statistics_stays_in_evaluation_mode():
    norm = BatchNormEval2d(4)
    assert not norm.training
    assert not nn.Sequential(norm).train()[0].training


def test_group_norm_has_32_groups_and_the_given_epsilon():
    norm = build_backbone("resnet18", norm="group", norm_eps=1e-3, out_features=("c1",)).bn1
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == 32
    assert norm.eps == 1e-3


@pytest.mark.parametrize("argument", ["norm", "norm_layer"])
def test_a_callable_norm(argument):
    arguments = {argument: lambda channels: nn.InstanceNorm2d(channels, affine=True)}
    backbone = build_backbone("resnet18", out_features=("c2",), **arguments)
    assert isinstance(backbone.layer1[0].bn1, nn.InstanceNorm2d)
    assert backbone(torch.randn(1, 3, 64, 64))["c2"].isfinite().all()


def test_norm_layer_gives_the_keys_of_torchvision():
    theirs = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    ours = build_backbone("resnet18", norm_layer=FrozenBatchNorm2d, num_classes=1000)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("weights,norm_type", [("some.pth", FrozenBatchNorm2d), (None, nn.BatchNorm2d)])
def test_the_default_norm_follows_the_weights(weights, norm_type):
    assert type(resolve_norm(None, weights, freeze=0)(8)) is norm_type


@pytest.mark.parametrize(
    "norm,freeze,words",
    [
        ("frozen", 0, ("norm='frozen'", "weights")),
        (None, 2, ("freeze=2", "weights")),
        ("frosen", 0, ("'frosen'", "did you mean frozen?")),
    ],
)
def test_bad_norm(norm, freeze, words):
    with input_error(*words):
        resolve_norm(norm, weights=None, freeze=freeze)


@pytest.mark.parametrize("argument", ["norm", "norm_layer"])
def test_an_epsilon_for_a_callable_norm_is_an_error(argument):
    with input_error("norm_eps=0.001", "by name"):
        build_backbone("resnet18", norm_eps=1e-3, **{argument: nn.BatchNorm2d})


@pytest.fixture(scope="module")
def small_net():
    """Two stages of resnet18 with an epsilon of its own, in evaluation mode."""
    return randomise(build_backbone("resnet18", norm_eps=1e-3, out_features=("c2", "c3"))).eval()


CONVERTIBLE = ["frozen", "batch", "batch_eval", "sync"]


@pytest.mark.parametrize("to", CONVERTIBLE)
def test_conversion_replaces_every_norm_and_keeps_the_function(small_net, to):
    converted = convert_norm(copy.deepcopy(small_net), to)
    images = torch.randn(1, 3, 64, 64)
    assert {type(m) for m in converted.modules() if hasattr(m, "running_mean")} == {NORMS[to]}
    with torch.no_grad():
        assert relative_error(converted(images)["c3"], small_net(images)["c3"]) <= 1e-6


@pytest.mark.parametrize("to", CONVERTIBLE)
def test_conversion_can_be_undone(small_net, to):
    back = convert_norm(convert_norm(copy.deepcopy(small_net), to), "batch")
    assert back.bn1.eps == 1e-3
    assert all(parameter.requires_grad for parameter in back.parameters())
    expected = small_net.state_dict()
    assert back.state_dict().keys() == expected.keys()
    for key, value in back.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_conversion_of_a_norm_itself_returns_its_replacement():
    assert type(convert_norm(nn.BatchNorm2d(8), "frozen")) is FrozenBatchNorm2d


@pytest.mark.parametrize("to,words", [("group", ("'group'",)), ("frosen", ("'frosen'", "did you mean frozen?"))])
def test_bad_conversion(to, words):
    with input_error(*words):
        convert_norm(nn.BatchNorm2d(8), to)


def net_of_norms():
    """Return one norm of each kind in training mode, behind a batch norm in evaluation mode."""
    norms = [NORMS[name](32) for name in ("batch", "batch", "batch_eval", "frozen", "group")]
    net = randomise(nn.Sequential(*norms)).train()
    net[0].eval()
    return net


@torch.no_grad()
def test_running_statistics_are_kept_bit_for_bit():
    net, images = net_of_norms(), torch.randn(2, 32, 4, 4)
    before = copy.deepcopy(net.state_dict())
    expected = net_of_norms()
    expected.load_state_dict(before)
    with keep_running_statistics(net):
        outputs = [net(images), net(images)]
        assert net[1].num_batches_tracked == 2
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(output, expected(images)) for output in outputs)  # normalised with the batch's statistics


def test_running_statistics_are_kept_if_the_pass_fails():
    net = net_of_norms()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(KeyError), torch.no_grad(), keep_running_statistics(net):
        net(torch.randn(2, 32, 4, 4))
        raise KeyError
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_statistics_move_again_after_the_context():
    net = net_of_norms()
    with keep_running_statistics(net):
        pass
    net(torch.randn(2, 32, 4, 4))
    assert net[1].num_batches_tracked == 1


def test_sync_norms_need_a_gpu():
    net = build_backbone("resnet18", norm="sync", out_features=("c2",))
    with input_error("norm='sync'", "bn1", "norm='batch'", "CPU"):
        check_sync_norms(net, torch.device("cpu"))
    check_sync_norms(net, torch.device("cuda", 0))
    check_sync_norms(convert_norm(net, "batch"), torch.device("cpu"))
