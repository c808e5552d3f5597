"""Exact conversion of CIFAR ResNets whose shortcuts without parameters pad zero channels on both sides.

The shortcut of option A (He et al. 2015, arXiv:1512.03385, section 4.1) adds zero channels where the width grows. This
package adds them behind; others add one half before and one half behind. The networks are the same up to the order of
the channels inside.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor


def move_padding_behind(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the same network for shortcuts that pad behind.

    Args:
        state: under torchvision's keys, of a network of BasicBlocks whose shortcuts pad on both sides.
    """
    return _permute(state, inverse=False)


def move_padding_to_both_sides(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `move_padding_behind`."""
    return _permute(state, inverse=True)


def _permute(state: Mapping[str, Tensor], inverse: bool) -> dict[str, Tensor]:
    widths = [len(state[f"layer{stage}.0.conv2.weight"]) for stage in (1, 2, 3)]
    orders = _channel_orders(widths)
    if inverse:
        orders = [order.argsort() for order in orders]
    converted = dict(state)
    for key, value in state.items():
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(conv1|conv2|bn2)\.(\w+)", key)
        if key == "fc.weight":
            converted[key] = value[:, orders[-1]]
        elif match and value.dim() > 0:
            stage, block = int(match[1]), int(match[2])
            if match[3] != "conv1":
                converted[key] = value[orders[stage - 1]]
            else:  # the channels that it reads are those of the block before it
                source = stage - 1 if block else max(stage - 2, 0)
                converted[key] = value[:, orders[source]]
    return converted


def _channel_orders(widths: list[int]) -> list[Tensor]:
    """Return for each stage which channel of the original stands at each place after the conversion."""
    orders = [torch.arange(widths[0])]
    for before, width in zip(widths, widths[1:]):
        offset = (width - before) // 2
        carried = orders[-1] + offset
        added = torch.tensor([channel for channel in range(width) if channel not in set(carried.tolist())])
        orders.append(torch.cat([carried, added]))
    return orders
