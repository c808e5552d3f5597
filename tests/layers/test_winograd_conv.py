"""WinogradConv2d: a module that behaves as nn.Conv2d and is faster on large float32 maps on the CPU."""

import copy
import io
import weakref

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error, winograd_layers
from torch import Tensor, nn

from detbackbones import build_backbone, build_detector, build_neck
from detbackbones.layers.winograd_conv import WinogradConv2d, convert_to_winograd_, supports_winograd


def conv(dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(128, 160, 3, padding=dilation, dilation=dilation, bias=bias).requires_grad_(False)


def large_map() -> Tensor:
    """Return a map on which Winograd's form is faster, in training too."""
    return torch.randn(1, 128, 64, 64)


def direct(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding, dilation=layer.dilation)


def error(out: Tensor, x: Tensor, layer: nn.Conv2d) -> float:
    return relative_error(out, direct(copy.deepcopy(layer).double(), x.double()))


def test_a_large_map_runs_in_winograds_form():
    layer, x = WinogradConv2d(conv()).precompute(), large_map()
    assert not torch.equal(layer(x), direct(layer, x))
    assert error(layer(x), x, layer) <= 5e-6


def test_a_small_map_runs_directly():
    layer, x = WinogradConv2d(conv()).precompute(), torch.randn(1, 128, 12, 12)
    assert torch.equal(layer(x), direct(layer, x))


def test_without_precomputed_weights_inference_runs_directly():
    layer, x = WinogradConv2d(conv()), large_map()
    assert torch.equal(layer(x), direct(layer, x))


def test_autocast_runs_directly():
    layer, x = WinogradConv2d(conv()).precompute(), large_map()
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = layer(x), direct(layer, x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)


def test_double_precision_runs_directly():
    layer, x = WinogradConv2d(conv()).precompute().double(), large_map().double()
    assert torch.equal(layer(x), direct(layer, x))


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(128, 128, 3, 2, padding=1),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 5, padding=1),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(128, 128, 3, padding="same"),
    ],
    ids=str,
)
def test_other_convolutions_are_not_supported(other):
    assert not supports_winograd(other)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_wide_3x3_convolutions_of_stride_1_are_supported(dilation):
    assert supports_winograd(conv(dilation))


def test_conversion_keeps_parameters_and_leaves_other_layers():
    model = nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(160, 8, 1))
    weight, keys = model[0].weight, list(model.state_dict())
    convert_to_winograd_(model)
    assert winograd_layers(model) == {"0"}
    assert model[0].weight is weight
    assert list(model.state_dict()) == keys


def save_and_load(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copy_layer", [copy.deepcopy, save_and_load])
def test_a_copy_computes_the_same(copy_layer):
    layer, x = WinogradConv2d(conv()).precompute(), large_map()
    assert torch.equal(copy_layer(layer)(x), layer(x))


@pytest.mark.parametrize("assign", [False, True])
def test_loading_a_state_dict_transforms_the_weights_again(assign):
    layer, other, x = WinogradConv2d(conv()).precompute(), WinogradConv2d(conv()).precompute(), large_map()
    layer.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
    assert torch.equal(layer(x), other(x))


def test_a_compiled_layer_runs_in_winograds_form_for_every_size():
    """fullgraph=True makes a graph break an error."""
    torch.compiler.reset()
    layer = WinogradConv2d(conv()).precompute()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        for height, width in ((32, 48), (33, 41), (63, 99)):
            x = torch.randn(1, 128, height, width)
            out = compiled(x)
            assert not torch.equal(out, direct(layer, x))
            assert error(out, x, layer) <= 5e-6


def test_an_exported_program_does_not_need_this_package():
    layer, x = WinogradConv2d(conv()).precompute(), large_map()
    program = torch.export.export(layer, (x,))
    assert "detbackbones" not in program.graph_module.code
    assert error(program.module()(x), x, layer) <= 5e-6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "n,height,width,dilation,bias", [(1, 64, 64, 1, True), (3, 50, 38, 1, False), (2, 61, 57, 2, True)]
)
def test_trains_with_the_gradients_of_a_convolution_in_float64(n, height, width, dilation, bias, layout):
    layer = WinogradConv2d(conv(dilation, bias)).requires_grad_().to(memory_format=layout)
    x, upstream = (torch.randn(n, c, height, width).to(memory_format=layout) for c in (128, 160))

    def output_and_gradients(layer, x):
        x = x.clone().requires_grad_()
        out = layer(x)
        return [out, *torch.autograd.grad(out, [x, *layer.parameters()], upstream.to(out.dtype))]

    ours = output_and_gradients(layer, x)
    assert not torch.equal(ours[0], direct(layer, x))
    exact = output_and_gradients(copy.deepcopy(layer).double(), x.double())
    for value, expected in zip(ours, exact, strict=True):
        assert relative_error(value, expected) <= 5e-6


def test_only_the_bias_trains():
    layer = WinogradConv2d(conv())
    layer.bias.requires_grad_()
    layer(large_map()).sum().backward()
    assert layer.bias.grad.unique().tolist() == [64 * 64]
    assert layer.weight.grad is None


def test_a_fixed_weight_does_not_keep_the_input_alive():
    layer, leaf = WinogradConv2d(conv()), large_map().requires_grad_()
    x = leaf * 1
    out, input_ref = layer(x), weakref.ref(x)
    del x
    assert input_ref() is None
    out.sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_a_layer_with_precomputed_weights_can_train():
    layer = WinogradConv2d(conv()).precompute().requires_grad_()
    layer(large_map()).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def direct_copy(model: nn.Module) -> nn.Module:
    """Return a copy whose convolutions all run directly."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is WinogradConv2d:
            module.__class__ = nn.Conv2d
    return model


def check_rounding_of_gradients(model: nn.Module, inputs) -> None:
    """Compare the gradients of a model with those in float64 and those of direct convolutions."""

    def gradients(model, inputs):
        loss = sum(feature.square().mean() for feature in model(inputs).values())
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(model.parameters()))])

    def to_double(inputs):
        return {key: x.double() for key, x in inputs.items()} if isinstance(inputs, dict) else inputs.double()

    ours, expected = gradients(model, inputs), gradients(direct_copy(model), inputs)
    exact = gradients(copy.deepcopy(model).double(), to_double(inputs))
    assert not torch.equal(ours, expected)
    # twice, because a ReLU whose input is close to 0 may go either way in one of them
    assert (ours - exact).norm() <= 2 * (expected - exact).norm()


def test_gradients_of_a_neck_round_at_most_twice_as_much_as_direct_ones():
    specs = build_backbone("resnet18").feature_specs
    features = {spec.name: torch.randn(1, spec.channels, 320 // spec.stride, 320 // spec.stride) for spec in specs}
    neck = randomise(build_neck("fpn", specs)).train()
    convert_to_winograd_(neck)
    check_rounding_of_gradients(neck, features)


@pytest.mark.slow
def test_gradients_of_a_backbone_round_at_most_twice_as_much_as_direct_ones():
    backbone = randomise(build_backbone("resnet18_dilated")).train()
    check_rounding_of_gradients(backbone, torch.randn(1, 3, 512, 512))


def test_backbones_are_built_with_it():
    names = {f"layer{stage}.{block}.conv{n}" for stage in (2, 3, 4) for block, n in ((0, 2), (1, 1), (1, 2))}
    assert winograd_layers(build_backbone("resnet18")) == names


def test_necks_and_heads_are_built_with_it():
    detector = build_detector(
        dict(type="mask_rcnn", backbone="resnet18", roi_heads=dict(type="standard", box_head_convs=(256,)))
    )
    places = {".".join(name.split(".")[:2]) for name in winograd_layers(detector) if not name.startswith("backbone")}
    assert places == {"neck.layer_blocks", "rpn.head", "roi_heads.box_head", "roi_heads.mask_head"}
