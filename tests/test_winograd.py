"""The fast 3x3 convolution: exact algebra, the rounding of a direct convolution, and a module that stands for nn.Conv2d."""

import copy
import gc
import io

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detbackbones import build_backbone, build_detector, build_neck
from detbackbones.layers import winograd as wino
from detbackbones.backbones.blocks import Conv2d
from detbackbones.layers.norm import conv_norm
from detbackbones.layers.winograd import WinogradConv2d


def conv(cin=128, cout=160, dilation=1, bias=True) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, padding=dilation, dilation=dilation, bias=bias).requires_grad_(False)


def error(found, x, layer):
    exact = F.conv2d(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double(),
                     padding=layer.padding, dilation=layer.dilation)  # fmt: skip
    return ((found - exact).abs().max() / exact.abs().max()).item()


def test_the_transforms_make_a_correlation_in_one_dimension():
    b, g, a = wino.transforms()
    kernel, cells = torch.randn(3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = torch.stack([(cells[i : i + 3] * kernel).sum() for i in range(4)])
    torch.testing.assert_close(a @ ((g @ kernel) * (b @ cells)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("block_bytes", [1, 200_000, 8 << 20], ids=["one row", "several blocks", "one block"])
@pytest.mark.parametrize("n,height,width,dilation", [(1, 32, 40, 1), (3, 13, 22, 1), (2, 30, 37, 2), (1, 21, 40, 4), (7, 1, 1, 1)])
def test_equals_a_convolution_in_float64(n, height, width, dilation, block_bytes, monkeypatch):
    monkeypatch.setattr(wino, "BLOCK_BYTES", block_bytes)
    layer = conv(dilation=dilation, bias=n != 3)
    x = torch.randn(n, 128, height, width).contiguous(memory_format=torch.channels_last)
    found = wino.winograd(x, wino.transform_weight(layer.weight), layer.bias, dilation)
    assert found.shape == (n, 160, height, width) and found.is_contiguous(memory_format=torch.channels_last)
    assert error(found, x, layer) <= 5e-6


def test_rounds_no_worse_than_twice_a_direct_convolution():
    """Root mean square over a map like those of a network: positive, channels_last, fan in 9 * 256."""
    layer = conv(256, 256).to(memory_format=torch.channels_last)
    x = torch.randn(1, 256, 40, 40).relu().contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    direct, fast = (((found - exact).norm() / exact.norm()).item()
                    for found in (layer(x), wino.winograd(x, wino.transform_weight(layer.weight), layer.bias, 1)))  # fmt: skip
    assert fast <= 2 * direct, (fast, direct)


def test_the_usual_points_round_worse(monkeypatch):
    torch.manual_seed(0)
    layer, x = conv(256, 256), torch.randn(1, 256, 40, 40).relu()

    def largest_error(points):
        monkeypatch.setattr(wino, "POINTS", points)
        b, g, a = wino.transforms()
        for name, value in (("_G", g), ("TO_TILES", torch.kron(b, b).float()), ("FROM_TILES", torch.kron(a, a).float())):
            monkeypatch.setattr(wino, name, value)
        return error(wino.winograd(x, wino.transform_weight(layer.weight), layer.bias, 1), x, layer)

    assert largest_error(wino.POINTS) < 0.5 * largest_error((0.0, 1.0, -1.0, 2.0, -2.0))


@pytest.fixture
def calls(monkeypatch):
    """What reaches the fast path."""
    seen, true = [], wino.winograd
    monkeypatch.setattr(wino, "winograd", lambda x, *rest: seen.append(x.shape) or true(x, *rest))
    return seen


def test_runs_fast_on_large_float32_maps_and_directly_otherwise(calls):
    layer = conv()
    fast = WinogradConv2d(layer).bake()
    large, small = torch.randn(1, 128, 32, 48), torch.randn(1, 128, 12, 12)
    assert error(fast(large), large, layer) <= 5e-6 and len(calls) == 1
    torch.testing.assert_close(fast(small), layer(small), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(large).dtype == torch.bfloat16
    assert fast.to(torch.float64)(large.double()).dtype == torch.float64 and len(calls) == 1


def test_keeps_the_state_dict_of_a_convolution_and_can_be_copied(calls):
    layer = conv()
    fast, x = WinogradConv2d(layer).bake(), torch.randn(1, 128, 32, 48)
    assert list(fast.state_dict()) == list(layer.state_dict())
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for other in (copy.deepcopy(fast), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x), fast(x), rtol=0, atol=0)
    assert len(calls) == 4


@pytest.mark.parametrize("other", [
    nn.Conv2d(128, 128, 3, 2, padding=1), nn.Conv2d(128, 128, 3), nn.Conv2d(128, 128, 5, padding=1), nn.Conv2d(64, 128, 3, padding=1),
    nn.Conv2d(256, 256, 3, padding=1, groups=2), nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(128, 128, 3, padding=(1, 2), dilation=(1, 2)),
    nn.Conv2d(128, 128, 3, padding="same")])  # fmt: skip
def test_other_layers_do_not_suit(other):
    assert not wino.suits(other) and wino.suits(conv())


def test_compiles_without_a_break_and_recompiles_once_for_changing_sizes():
    torch.compiler.reset()
    graphs = []

    def counting(graph, _):
        graphs.append(str(graph.code))
        return graph.forward

    fast = WinogradConv2d(conv()).bake()
    compiled = torch.compile(fast, fullgraph=True, backend=counting)
    with torch.no_grad():
        for height, width in ((32, 48), (40, 52), (33, 41), (63, 99)):
            x = torch.randn(1, 128, height, width)
            torch.testing.assert_close(compiled(x), fast(x), rtol=0, atol=1e-5)
    assert len(graphs) == 2 and all("detbackbones.winograd" in code for code in graphs)


def test_an_exported_program_needs_nothing_of_ours():
    x = torch.randn(1, 128, 32, 48)
    fast = WinogradConv2d(conv()).bake()
    program = torch.export.export(fast, (x,))
    assert "detbackbones.winograd" not in program.graph_module.code
    torch.testing.assert_close(program.module()(x), fast(x), rtol=0, atol=1e-5)


def test_loading_a_state_dict_changes_what_the_fast_path_computes(calls):
    one, other, x = WinogradConv2d(conv()).bake(), WinogradConv2d(conv()).bake(), torch.randn(1, 128, 32, 48)
    assert (one(x) - other(x)).abs().max() > 0.1
    one.load_state_dict(other.state_dict())
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)
    one.load_state_dict(conv(160 - 32).state_dict(), assign=True)
    assert error(one(x), x, one) <= 5e-6 and len(calls) == 5


def derivatives(layer, x, upstream):
    """Output, and the gradients of x, weight and bias."""
    x = x.clone().requires_grad_()
    out = layer(x)
    return [out, *torch.autograd.grad(out, [x, *layer.parameters()], upstream.to(out.dtype))]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("block_bytes", [1, 8 << 20], ids=["rows", "blocks"])
@pytest.mark.parametrize("n,height,width,dilation,bias", [(1, 64, 64, 1, True), (3, 50, 38, 1, False), (2, 61, 57, 2, True)])
def test_trains_with_the_gradients_of_a_convolution_in_float64(n, height, width, dilation, bias, block_bytes, layout, calls, monkeypatch):
    monkeypatch.setattr(wino, "BLOCK_BYTES", block_bytes)
    layer = conv(dilation=dilation, bias=bias).requires_grad_().to(memory_format=layout)
    x, upstream = (torch.randn(n, c, height, width).to(memory_format=layout) for c in (128, 160))
    found = derivatives(WinogradConv2d(layer), x, upstream)
    assert len(calls) == 2  # forward, and the gradient of x
    exact = derivatives(copy.deepcopy(layer).double(), x.double(), upstream)
    for ours, expected in zip(found, exact, strict=True):
        assert ours.shape == expected.shape and ((ours - expected).abs().max() / expected.abs().max()).item() <= 5e-6


def test_computes_the_gradients_asked_for_alone():
    layer, x = WinogradConv2d(conv()), torch.randn(1, 128, 64, 64)
    assert not layer(x).requires_grad
    layer.bias.requires_grad_()
    layer(x).sum().backward()
    assert layer.bias.grad.unique().tolist() == [64 * 64] and layer.weight.grad is None
    out = layer(x.requires_grad_())
    saved = out.grad_fn.saved_tensors
    assert saved[0] is None and saved[1] is layer.weight  # a fixed weight needs no input
    out.sum().backward()
    assert x.grad.shape == x.shape


def test_a_baked_layer_that_trains_after_all_gets_its_gradient():
    layer = WinogradConv2d(conv()).bake().requires_grad_()
    layer(torch.randn(1, 128, 64, 64)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_second_derivatives_are_those_of_a_convolution():
    plain = nn.Conv2d(128, 128, 3, padding=1)
    fast, x = WinogradConv2d(plain), torch.randn(1, 128, 64, 64)

    def of(layer):
        inputs = [x.clone().requires_grad_(), layer.weight]
        first = torch.autograd.grad(layer(inputs[0]).square().mean(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    for ours, expected in zip(of(fast), of(plain)):
        assert ((ours - expected).norm() / expected.norm()).item() <= 1e-5


@pytest.mark.parametrize("size", [16, 63, 64])
def test_a_folded_weight_is_not_kept_and_the_output_may_change_in_place(size, calls):
    layer, norm, x = Conv2d(128, 128, 3), FrozenBatchNorm2d(128), torch.randn(1, 128, size, size, requires_grad=True)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer.convolve(x, layer.weight, None)
    assert sum(t is layer.weight for t in kept) == 1  # what conv_norm's own hooks see
    before = len(live(layer.weight.shape))
    out = conv_norm(x, layer, norm).relu_()
    assert len(live(layer.weight.shape)) == before
    out.square().sum().backward()
    expected = [x.grad, layer.weight.grad]
    x.grad = layer.weight.grad = None
    norm(F.conv2d(x, layer.weight, padding=1)).relu().square().sum().backward()
    for ours, reference in zip(expected, (x.grad, layer.weight.grad)):
        assert ((ours - reference).norm() / reference.norm()).item() <= 1e-5
    assert bool(calls) == (size > 16)


def live(shape) -> list[torch.Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.shape == shape]


@pytest.mark.parametrize("build", [lambda: build_backbone("resnet18_dilated"),
                                   lambda: build_neck("fpn", build_backbone("resnet18", weights=None).feature_specs)])  # fmt: skip
def test_the_gradients_of_a_model_round_no_worse_than_twice_direct_ones(build, monkeypatch):
    model = randomise(build()).train()
    used, true = [], wino.weight_gradient
    monkeypatch.setattr(wino, "weight_gradient", lambda *given: used.append(1) or true(*given))
    inputs = torch.randn(1, 3, 512, 512) if hasattr(model, "conv1") else {
        f"c{level}": torch.randn(1, 64 << (level - 2), 320 >> level, 320 >> level) for level in (2, 3, 4, 5)}  # fmt: skip

    def gradients(model, inputs):
        losses = [feature.square().mean() for feature in model(inputs).values()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(sum(losses), list(model.parameters()))])

    fast = gradients(model, inputs)
    assert used
    exact = gradients(copy.deepcopy(model).double(), {k: v.double() for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.double())
    monkeypatch.setattr(wino, "is_faster", lambda *_: False)
    ours, direct = (((found - exact).norm() / exact.norm()).item() for found in (fast, gradients(model, inputs)))
    assert ours <= 2 * direct  # a ReLU whose input is nearly 0 makes either a step


def test_heads_and_necks_are_built_with_it():
    detector = build_detector(dict(type="mask_rcnn", backbone="resnet18", box_head_convs=(256,)))
    fast = {".".join(name.split(".")[:2]) for name, module in detector.named_modules() if isinstance(module, WinogradConv2d)}
    assert fast == {"neck.layer_blocks", "rpn.head", "roi_heads.box_head", "roi_heads.mask_head"}
