import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detbackbones.backbones.shortcuts import ConvShortcut, DilatedAvgPool, PadShortcut, PoolShortcut
from detbackbones.backbones.stage_plan import BlockPlan


def test_the_pad_shortcut_subsamples_and_adds_zero_channels():
    shortcut = PadShortcut(16, 32, BlockPlan(2, (1, 1)), nn.BatchNorm2d)
    x = torch.randn(1, 16, 9, 9)
    out = shortcut(x)
    assert out.shape == (1, 32, 5, 5)
    assert torch.equal(out[:, :16], x[..., ::2, ::2])
    assert not out[:, 16:].any()


def test_the_pad_shortcut_has_no_parameters():
    assert not PadShortcut(16, 32, BlockPlan(2, (1, 1)), nn.BatchNorm2d).state_dict()


@pytest.mark.parametrize("shortcut_type,pool_dilation", [(ConvShortcut, 0), (PoolShortcut, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_output_has_size_over_stride_rounded_up(shortcut_type, pool_dilation, stride):
    shortcut = shortcut_type(8, 16, BlockPlan(stride, (1,), pool_dilation), nn.BatchNorm2d)
    assert shortcut(torch.randn(2, 8, 9, 12)).shape == (2, 16, -(-9 // stride), -(-12 // stride))


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (2, 1), (1, 1)])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_dilated_pool_sampled_at_the_removed_strides_is_the_pool_of_the_sampled_map(size, dilation):
    """The dilated map has the cells of the undilated one at every dilation-th place."""
    height, width = ((side - 1) * dilation + 1 for side in size)
    x = torch.randn(1, 4, height, width)
    sampled = x[..., ::dilation, ::dilation]
    expected = F.avg_pool2d(sampled, 2, stride=2, ceil_mode=True, count_include_pad=False)
    out = DilatedAvgPool(dilation, stride=1)(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out[..., :: 2 * dilation, :: 2 * dilation], expected)
