"""Norm kinds, what stays fixed, and folding: the same results and gradients as the unfolded network."""

import copy
import weakref

import pytest
import timm
import torch
import torchvision
from helpers import randomise, relative_error
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detbackbones import InputError, build_backbone
from detbackbones.layers import norm as norms
from detbackbones.backbones.blocks import Conv2d
from detbackbones.layers.norm import convert_norm


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(randomise(torchvision.models.resnet18()).state_dict(), path)
    return str(path)


def statistics(backbone):
    return {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k}


@pytest.mark.parametrize("norm,moves,affine", [(None, False, False), ("frozen", False, False), ("batch", True, True),
                                               ("batch_eval", False, True), ("sync", True, True)])  # fmt: skip
def test_what_each_norm_lets_train(weights, norm, moves, affine):
    backbone = build_backbone("resnet18", weights=weights, norm=norm).train()
    before = statistics(backbone)
    features = backbone(torch.randn(2, 3, 64, 64))
    assert any(not torch.equal(v, before[k]) for k, v in statistics(backbone).items()) == moves
    features["c5"].square().mean().backward()
    trained = [n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("bn" in n for n in trained) == affine and any(n.endswith("conv1.weight") for n in trained)


def test_group_norm_and_callables():
    backbone = build_backbone("resnet18", norm="group", norm_eps=1e-3)
    assert isinstance(backbone.bn1, nn.GroupNorm) and backbone.bn1.eps == 1e-3 and backbone.bn1.num_groups == 32
    for argument in ("norm", "norm_layer"):
        backbone = build_backbone("resnet18", **{argument: lambda channels: nn.InstanceNorm2d(channels, affine=True)})
        assert isinstance(backbone.layer1[0].bn1, nn.InstanceNorm2d)
        assert backbone(torch.randn(1, 3, 64, 64))["c5"].isfinite().all()
    theirs = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    assert list(build_backbone("resnet18", norm_layer=FrozenBatchNorm2d, num_classes=1000).state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("norm", [None, "batch", "batch_eval"])
@pytest.mark.parametrize("freeze", range(6))
def test_frozen_parts_never_thaw(weights, norm, freeze):
    backbone = build_backbone("resnet18", weights=weights, norm=norm, freeze=freeze)
    before = copy.deepcopy(backbone.state_dict())
    for mode in (None, False, True):  # as built, and after both modes
        if mode is not None:
            backbone.train(mode)
        features = backbone(torch.randn(2, 3, 64, 64))
    loss = sum(f.square().mean() for f in features.values())
    if freeze < 5:
        loss.backward()
        torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    changed = {k.split(".")[0] for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    parts = [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]
    assert not changed & set().union(*parts[:freeze]) and all(changed & part for part in parts[freeze:])


def test_frozen_parts_build_no_graph(weights):
    backbone = build_backbone("resnet18", weights=weights, freeze=3).train()
    features = backbone(torch.randn(1, 3, 64, 64))
    assert [f.requires_grad for f in features.values()] == [False, False, True, True]


@pytest.mark.parametrize("to", ["frozen", "batch", "batch_eval", "sync"])
def test_conversion_both_ways(to):
    backbone = randomise(build_backbone("resnet18", norm_eps=1e-3)).eval()
    images = torch.randn(1, 3, 64, 64)
    converted = convert_norm(copy.deepcopy(backbone), to)
    assert {type(m) for m in converted.modules() if hasattr(m, "running_mean")} == {norms.NORMS[to]}
    back = convert_norm(copy.deepcopy(converted), "batch")
    with torch.no_grad():
        for other in (converted, back):
            assert relative_error(other(images)["c5"], backbone(images)["c5"]) <= 1e-6
    for key, value in back.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[key])
    assert back.bn1.eps == 1e-3 and all(p.requires_grad for p in back.parameters())
    with pytest.raises(InputError, match="cannot become 'group'"):
        convert_norm(backbone, "group")


@pytest.mark.parametrize("tracked", [True, False])
def test_frozen_norm_reads_and_writes_batch_norm_state(tracked):
    live = randomise(nn.BatchNorm2d(8))
    state = {k: v for k, v in live.state_dict().items() if tracked or not k.endswith("num_batches_tracked")}
    frozen = FrozenBatchNorm2d(8)
    frozen.load_state_dict(state)
    again = nn.BatchNorm2d(8)
    again.load_state_dict(frozen.state_dict())
    assert all(torch.equal(again.state_dict()[k], v) for k, v in frozen.state_dict().items())


def unfolded(backbone, monkeypatch):
    monkeypatch.setattr(norms, "folds", lambda norm: False)
    return copy.deepcopy(backbone)


@pytest.mark.parametrize("name", ["resnet18", "resnet50_dc5", "resnext50_32x4d", "resnet18d_dilated"])
@pytest.mark.parametrize("training", [False, True])
def test_folding_changes_no_result_and_no_gradient(name, training, monkeypatch):
    """Against the norm run as a layer of its own, in double precision, where only a mistake could show."""
    backbone = convert_norm(randomise(build_backbone(name)), "frozen").double().train(training)
    images = torch.randn(2, 3, 65, 47, dtype=torch.double)
    folded_features = backbone(images)
    sum(f.square().mean() for f in folded_features.values()).backward()
    plain = unfolded(backbone, monkeypatch)
    plain.zero_grad()
    features = plain(images)
    sum(f.square().mean() for f in features.values()).backward()
    for key, feature in features.items():
        assert relative_error(folded_features[key], feature) <= 1e-12
    for (key, a), b in zip(backbone.named_parameters(), plain.parameters()):
        assert relative_error(a.grad, b.grad) <= 1e-10, key


def test_folding_a_norm_whose_affine_trains(monkeypatch):
    backbone = randomise(build_backbone("resnet18", norm="batch_eval")).double().train()
    images = torch.randn(1, 3, 65, 47, dtype=torch.double)
    backbone(images)["c5"].square().mean().backward()
    plain = unfolded(backbone, monkeypatch)
    plain.zero_grad()
    plain(images)["c5"].square().mean().backward()
    for (key, a), b in zip(backbone.named_parameters(), plain.named_parameters()):
        assert relative_error(a.grad, b[1].grad) <= 1e-10, key


def frozen_conv():
    """A convolution in double precision, and the frozen norm behind it."""
    conv, norm = Conv2d(3, 4, 3).double(), FrozenBatchNorm2d(4).double()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return conv, norm


def test_second_derivatives_go_through_a_fold():
    """The backward pass folds again; what it gets must be a function of the weight, not a copy."""
    conv, norm = frozen_conv()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double, requires_grad=True)

    def second(out):
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), conv.weight)[0]

    torch.testing.assert_close(second(norms.conv_norm(x, conv, norm)), second(norm(conv(x))))


def test_the_folded_copy_is_gone_after_the_forward_pass(monkeypatch):
    conv, norm = frozen_conv()
    made, fold = [], norms.fold

    def watched(*args):
        weight, bias = fold(*args)
        made.append(weakref.ref(weight))
        return weight, bias

    monkeypatch.setattr(norms, "fold", watched)
    out = norms.conv_norm(torch.randn(1, 3, 6, 5, dtype=torch.double, requires_grad=True), conv, norm)
    assert out.requires_grad and [copy() for copy in made] == [None]


def test_weights_changed_before_the_backward_pass_are_noticed():
    conv, norm = frozen_conv()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double, requires_grad=True)
    out = norms.conv_norm(x, conv, norm).sum()
    with torch.no_grad():
        conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.backward()


def test_a_fold_inside_torch_func_and_without_data():
    conv, norm = frozen_conv()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double)

    def total(x):
        return norms.conv_norm(x, conv, norm).sum()

    outside = x.clone().requires_grad_()
    total(outside).backward()
    torch.testing.assert_close(torch.func.grad(total)(x), outside.grad)
    conv, norm = conv.to("meta"), norm.to("meta")
    x = x.to("meta").requires_grad_()
    total(x).backward()
    assert x.grad.shape == x.shape and conv.weight.grad.shape == conv.weight.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_folding_under_autocast_rounds_only_the_product(dtype):
    """Statistics that half precision cannot hold: folded in float32 first, the result stays right."""
    conv = build_backbone("resnet18").layer1[0].conv1
    norm = FrozenBatchNorm2d(64)
    norm.running_mean.fill_(1000.5)
    norm.bias.fill_(1000.25)
    norm.running_var.fill_(1.0)
    x = torch.randn(1, 64, 16, 16)
    expected = norms.conv_norm(x, conv, norm)
    with torch.autocast("cpu", dtype):
        weight, bias = norms.fold(conv, norm)
        out = norms.conv_norm(x, conv, norm)
    assert weight.dtype == bias.dtype == torch.float32 and out.dtype == dtype
    assert relative_error(out.float(), expected) < 0.02
    torch.testing.assert_close(bias, torch.full((64,), -0.245), rtol=0, atol=0.02)


def test_a_norm_that_does_more_is_not_folded():
    """timm's batch norm with an activation is a BatchNorm2d by class."""
    block = randomise(build_backbone("resnet18", norm=timm.layers.BatchNormAct2d)).eval().layer1[0]
    x = torch.randn(1, 64, 16, 16)
    expected = block.bn1(block.conv1(x))
    assert expected.min() >= 0
    torch.testing.assert_close(norms.conv_norm(x, block.conv1, block.bn1), expected, rtol=0, atol=0)
