"""Blobs of Caffe2 networks whose batch norms are folded into an affine map."""

from collections.abc import Mapping

import torch
from torch import Tensor

EPS = 1e-5  # of the norms that these weights are loaded into


def complete_norms(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return blobs in which every batch norm has statistics.

    A folded norm has a scale and an offset alone. With a mean of 0 and a variance of 1 - `EPS` a batch norm is the same
    affine map. A bias of zeros before the first norm has no effect and is left out.
    """
    completed = dict(blobs)
    for key, scale in blobs.items():
        if key.endswith("_bn_s") and key.removesuffix("s") + "rm" not in blobs:
            completed[key.removesuffix("s") + "rm"] = torch.zeros_like(scale)
            completed[key.removesuffix("s") + "riv"] = torch.full_like(scale, 1 - EPS)
    if "conv1_b" in completed and not completed["conv1_b"].any():
        del completed["conv1_b"]
    return completed
