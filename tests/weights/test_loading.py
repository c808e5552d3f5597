"""load_state: a state dict fits exactly, or the error lists what does not."""

import pytest
import torch
from helpers import input_error
from timm.models import adapt_input_conv
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detbackbones.weights.loading import adapt_first_conv, load_state


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def test_a_state_dict_that_fits_is_loaded():
    target, state = model(), model().state_dict()
    load_state(target, state, "w.pth")
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize("norms", [(FrozenBatchNorm2d, nn.BatchNorm2d), (nn.BatchNorm2d, FrozenBatchNorm2d)])
def test_the_counter_of_batches_may_be_missing_on_either_side(norms):
    source, target = (nn.Sequential(nn.Conv2d(3, 8, 3), norm(8)) for norm in norms)
    load_state(target, source.state_dict(), "w.pth")
    assert torch.equal(target[0].weight, source[0].weight)


@pytest.mark.parametrize(
    "changes,problem",
    [
        ({"0.bias": None}, "missing 0.bias"),
        ({"2.bias": torch.zeros(8)}, "unexpected 2.bias"),
        ({"0.bias": torch.zeros(4)}, "wrong shape 0.bias: (4,) for (8,)"),
    ],
)
def test_what_does_not_fit_is_listed(changes, problem):
    state = {key: value for key, value in {**model().state_dict(), **changes}.items() if value is not None}
    target = model()
    before = target[0].weight.clone()
    with input_error("w.pth", problem):
        load_state(target, state, "w.pth")
    assert torch.equal(target[0].weight, before)


def test_a_long_list_is_cut():
    wide = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    with input_error("0 of 20 keys", "missing 0: 2 keys (0.weight, 0.bias)", "and 8 more in 4 modules"):
        load_state(wide, {}, "w.pth")


def test_prefixes_can_be_dropped():
    load_state(model()[0], {**model()[0].state_dict(), "fc.weight": torch.zeros(2, 2)}, "w.pth", drop_prefixes=("fc.",))


def test_named_keys_may_be_missing():
    target, state = model(), model().state_dict()
    bias = target[0].bias.clone()
    del state["0.bias"]
    load_state(target, state, "w.pth", may_be_missing=("0.bias",))
    assert torch.equal(target[0].bias, bias)
    assert torch.equal(target[0].weight, state["0.weight"])


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_the_first_convolution_is_adapted_as_timm_does(channels):
    state = model().state_dict()
    adapted = adapt_first_conv(state, "0.weight", channels)
    torch.testing.assert_close(adapted["0.weight"], adapt_input_conv(channels, state["0.weight"]))
    assert state["0.weight"].shape[1] == 3


def test_three_channels_need_no_adaptation():
    state = model().state_dict()
    assert adapt_first_conv(state, "0.weight", 3)["0.weight"] is state["0.weight"]
