"""Weights of classes in the classification losses."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError, shorten


def class_weight_tensor(weights: Sequence[float], num_classes: int) -> Tensor:
    """Return the weights of the foreground classes as a float32 tensor.

    Raises:
        InputError: there is not one finite positive weight per class.
    """
    if len(weights) != num_classes:
        raise InputError(
            f"class_weights has {len(weights)} value(s), expected one for each of {num_classes} foreground class(es)"
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise InputError(f"class_weights must be finite and greater than 0, got {shorten(list(weights))}")
    return torch.tensor(weights, dtype=torch.float32)
