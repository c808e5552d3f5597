"""The fast 3x3 convolution: exact algebra, the rounding of a direct convolution, and a module that stands for nn.Conv2d."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detbackbones.backbones import winograd as wino
from detbackbones.backbones.winograd import WinogradConv2d


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
    fast = WinogradConv2d(layer)
    large, small = torch.randn(1, 128, 32, 48), torch.randn(1, 128, 12, 12)
    assert error(fast(large), large, layer) <= 5e-6 and len(calls) == 1
    torch.testing.assert_close(fast(small), layer(small), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(large).dtype == torch.bfloat16
    asked = large.clone().requires_grad_()
    fast(asked).sum().backward()
    assert asked.grad is not None and len(calls) == 1
    assert fast.to(torch.float64)(large.double()).dtype == torch.float64 and len(calls) == 1


def test_keeps_the_state_dict_of_a_convolution_and_can_be_copied(calls):
    layer = conv()
    fast, x = WinogradConv2d(layer), torch.randn(1, 128, 32, 48)
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
    nn.Conv2d(128, 128, 3, padding=(1, 2), dilation=(1, 2)), nn.Conv2d(128, 128, 3, padding=1).bfloat16(),
    nn.Conv2d(128, 128, 3, padding="same")])  # fmt: skip
def test_other_layers_do_not_suit(other):
    assert not WinogradConv2d.suits(other) and WinogradConv2d.suits(conv())


def test_compiles_without_a_break_and_recompiles_once_for_changing_sizes():
    torch.compiler.reset()
    graphs = []

    def counting(graph, _):
        graphs.append(str(graph.code))
        return graph.forward

    fast = WinogradConv2d(conv())
    compiled = torch.compile(fast, fullgraph=True, backend=counting)
    with torch.no_grad():
        for height, width in ((32, 48), (40, 52), (33, 41), (63, 99)):
            x = torch.randn(1, 128, height, width)
            torch.testing.assert_close(compiled(x), fast(x), rtol=0, atol=1e-5)
    assert len(graphs) == 2 and all("detbackbones.winograd" in code for code in graphs)


def test_an_exported_program_needs_nothing_of_ours():
    x = torch.randn(1, 128, 32, 48)
    fast = WinogradConv2d(conv())
    program = torch.export.export(fast, (x,))
    assert "detbackbones.winograd" not in program.graph_module.code
    torch.testing.assert_close(program.module()(x), fast(x), rtol=0, atol=1e-5)


def test_loading_a_state_dict_changes_what_the_fast_path_computes(calls):
    one, other, x = WinogradConv2d(conv()), WinogradConv2d(conv()), torch.randn(1, 128, 32, 48)
    assert (one(x) - other(x)).abs().max() > 0.1
    one.load_state_dict(other.state_dict())
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)
    one.load_state_dict(conv(160 - 32).state_dict(), assign=True)
    assert error(one(x), x, one) <= 5e-6 and len(calls) == 5
