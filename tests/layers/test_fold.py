"""Folding a norm into the convolution before it: the same results and gradients as running the norm as a layer."""

import copy
import weakref

import pytest
import timm
import torch
from helpers import largest_error, randomise, relative_error
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detbackbones import build_backbone
from detbackbones.layers.conv import conv2d
from detbackbones.layers.fold import can_fold, conv_norm, fold_norm
from detbackbones.layers.norm import BATCH_NORMS, BatchNormEval2d, convert_norm
from detbackbones.layers.winograd_conv import WinogradConv2d


@pytest.mark.parametrize(
    "norm,expected",
    [
        (FrozenBatchNorm2d(4), True),
        (nn.BatchNorm2d(4).eval(), True),
        (nn.SyncBatchNorm(4).eval(), True),
        (BatchNormEval2d(4).train(), True),
        (nn.BatchNorm2d(4).train(), False),
        (nn.BatchNorm2d(4, track_running_stats=False).eval(), False),
        (nn.BatchNorm2d(4, affine=False).eval(), False),
        (nn.GroupNorm(2, 4), False),
        (timm.layers.BatchNormAct2d(4).eval(), False),  # a BatchNorm2d by class, with an activation behind
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_norms_can_be_folded(norm, expected):
    assert can_fold(norm) == expected


def unfolded(model: nn.Module) -> nn.Module:
    """Return a copy whose norms run as layers: subclasses of the norm layers are not folded."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (FrozenBatchNorm2d, *BATCH_NORMS)):
            module.__class__ = type("Unfolded", (type(module),), {})
    return model


@pytest.mark.parametrize(
    "name,norm",
    [
        ("resnet18", "frozen"),
        ("resnet50_dc5", "frozen"),
        ("resnext50_32x4d", "frozen"),
        ("resnet18d_dilated", "frozen"),
        ("resnet18", "batch"),
        ("resnet18", "batch_eval"),
    ],
)
def test_a_folded_backbone_equals_the_unfolded_one(name, norm):
    """In double precision, where rounding cannot hide a mistake."""
    folded = convert_norm(randomise(build_backbone(name)), norm).double().train(norm == "batch_eval")
    plain = unfolded(folded)
    images = torch.randn(2, 3, 33, 47, dtype=torch.double)
    features, expected = folded(images), plain(images)
    for maps in (features, expected):
        sum(feature.square().mean() for feature in maps.values()).backward()
    assert largest_error(features, expected) <= 1e-12
    for (key, parameter), reference in zip(folded.named_parameters(), plain.parameters()):
        assert relative_error(parameter.grad, reference.grad) <= 1e-10, key


def conv_and_frozen_norm() -> tuple[nn.Conv2d, FrozenBatchNorm2d]:
    """Return a convolution in double precision and the frozen norm behind it."""
    return conv2d(3, 4, 3).double(), randomise(FrozenBatchNorm2d(4)).double()


def test_a_bias_of_the_convolution_is_folded():
    conv, norm = nn.Conv2d(3, 4, 3).double(), randomise(FrozenBatchNorm2d(4)).double()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double)
    torch.testing.assert_close(conv_norm(x, conv, norm), norm(conv(x)))


def test_second_derivatives_go_through_a_fold():
    """The backward pass folds again; the weight that it gets must still depend on the parameters."""
    conv, norm = conv_and_frozen_norm()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double, requires_grad=True)

    def second_derivative(out):
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), conv.weight)[0]

    torch.testing.assert_close(second_derivative(conv_norm(x, conv, norm)), second_derivative(norm(conv(x))))


def test_weights_changed_before_the_backward_pass_are_an_error():
    conv, norm = conv_and_frozen_norm()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double, requires_grad=True)
    out = conv_norm(x, conv, norm).sum()
    with torch.no_grad():
        conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.backward()


def test_a_fold_inside_torch_func():
    conv, norm = conv_and_frozen_norm()
    x = torch.randn(1, 3, 6, 5, dtype=torch.double)
    outside = x.clone().requires_grad_()
    conv_norm(outside, conv, norm).sum().backward()
    inside = torch.func.grad(lambda x: conv_norm(x, conv, norm).sum())(x)
    torch.testing.assert_close(inside, outside.grad)


def test_a_fold_on_the_meta_device():
    conv, norm = (module.to("meta") for module in conv_and_frozen_norm())
    x = torch.empty(1, 3, 6, 5, dtype=torch.double, device="meta", requires_grad=True)
    conv_norm(x, conv, norm).sum().backward()
    assert x.grad.shape == x.shape
    assert conv.weight.grad.shape == conv.weight.shape


class RecordingConv2d(nn.Conv2d):
    """Remembers the weight that it last ran with, without keeping it alive."""

    def _conv_forward(self, input, weight, bias):
        self.last_weight = weakref.ref(weight)
        return super()._conv_forward(input, weight, bias)


class RecordingWinogradConv2d(RecordingConv2d, WinogradConv2d):
    pass


def recording(winograd: bool) -> RecordingConv2d:
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    conv = WinogradConv2d(conv) if winograd else conv
    conv.__class__ = RecordingWinogradConv2d if winograd else RecordingConv2d
    return conv


@pytest.mark.parametrize("winograd,size", [(False, 16), (True, 16), (True, 64)])
def test_the_folded_weight_is_not_kept_for_the_backward_pass(winograd, size):
    conv, norm = recording(winograd), randomise(FrozenBatchNorm2d(128))
    x = torch.randn(1, 128, size, size, requires_grad=True)
    out = conv_norm(x, conv, norm)
    assert conv.last_weight() is None
    out.square().sum().backward()
    gradients = [x.grad, conv.weight.grad]
    x.grad = conv.weight.grad = None
    norm(conv(x)).square().sum().backward()
    for gradient, expected in zip(gradients, (x.grad, conv.weight.grad)):
        assert relative_error(gradient, expected) <= 1e-4


@pytest.mark.parametrize("size", [16, 63, 64])
def test_the_output_may_be_changed_in_place(size):
    conv, norm = WinogradConv2d(conv2d(128, 128, 3)), FrozenBatchNorm2d(128)
    x = torch.randn(1, 128, size, size, requires_grad=True)
    conv_norm(x, conv, norm).relu_().sum().backward()
    assert x.grad.isfinite().all()


def norm_with_large_statistics() -> FrozenBatchNorm2d:
    """Return a norm whose statistics half precision cannot hold; in float32 they cancel to about -0.245."""
    norm = FrozenBatchNorm2d(64)
    norm.running_mean.fill_(1000.5)
    norm.bias.fill_(1000.25)
    norm.running_var.fill_(1.0)
    return norm


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_convolution_in_half_precision_is_folded_in_float32(dtype):
    weight, bias = fold_norm(conv2d(64, 64, 3).to(dtype), norm_with_large_statistics())
    assert {weight.dtype, bias.dtype} == {dtype}
    torch.testing.assert_close(bias.float(), torch.full((64,), -0.245), rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fold_under_autocast_rounds_only_the_product(dtype):
    conv, norm = conv2d(64, 64, 3), norm_with_large_statistics()
    x = torch.randn(1, 64, 16, 16)
    expected = conv_norm(x, conv, norm)
    with torch.autocast("cpu", dtype):
        weight, bias = fold_norm(conv, norm)
        out = conv_norm(x, conv, norm)
    assert {weight.dtype, bias.dtype} == {torch.float32}
    assert out.dtype == dtype
    assert relative_error(out.float(), expected) < 0.02
    torch.testing.assert_close(bias, torch.full((64,), -0.245), rtol=0, atol=0.02)


def test_a_norm_with_an_activation_keeps_it():
    conv, norm = conv2d(8, 8, 3), randomise(timm.layers.BatchNormAct2d(8)).eval()
    out = conv_norm(torch.randn(1, 8, 16, 16), conv, norm)
    assert out.min() == 0
