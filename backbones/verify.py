"""Measure whether dilated features, sampled at the removed strides, equal the features of the undilated network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import build_backbone

TOLERANCE = 1e-4  # relative error that float32 rounding explains


def randomise_norms(module: nn.Module) -> nn.Module:
    """Draw norm statistics and affine values as after training, in place: fresh ones would hide mistakes."""
    for key, tensor in module.state_dict().items():
        name = key.rsplit(".", 1)[-1]
        if name in ("running_mean", "bias"):
            tensor.normal_(0, 0.2)
        elif name == "running_var" or tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    return module


def sampled_error(fine: Tensor, coarse: Tensor, step: int) -> float:
    """Return max|a - b| / max|b| of every `step`-th cell of a dilated map and the undilated map.

    Networks that round sizes down are compared where both grids have a cell.
    """
    fine = fine[..., ::step, ::step][..., : coarse.shape[-2], : coarse.shape[-1]]
    coarse = coarse[..., : fine.shape[-2], : fine.shape[-1]]
    return ((fine - coarse).abs().max() / coarse.abs().max()).item()


@torch.no_grad()
def verify_dilation(
    cfg: str | Mapping, size: tuple[int, int] = (97, 130), dtype: torch.dtype = torch.float32, **overrides: Any
) -> dict[str, float]:
    """Return the relative error max|a - b| / max|b| of every level of a backbone against the undilated network.

    Norm layers are in evaluation mode.

    Args:
        cfg, overrides: as `build_backbone`. Without `weights`, weights and norm statistics are random.
        size: height and width of the random image; the default is not a multiple of any stride.
        dtype: of weights and image.

    Returns:
        {"c2": error, ...} of the returned levels.

    Raises:
        InputError: as `build_backbone`.
    """
    cfg = ({"type": cfg} if isinstance(cfg, str) else dict(cfg)) | overrides
    dilated = build_backbone(cfg).to(dtype).eval()
    if not cfg.get("weights"):
        randomise_norms(dilated)
    plain = build_backbone(cfg, load_weights=False, **dilated.undilated_kwargs).to(dtype).eval()
    plain.load_state_dict(dilated.state_dict())
    images = torch.randn(1, dilated.preprocess.channels, *size, dtype=dtype)
    dilated_features, plain_features = dilated(images), plain(images)
    return {
        fine.name: sampled_error(dilated_features[fine.name], plain_features[fine.name], coarse.stride // fine.stride)
        for fine, coarse in zip(dilated.feature_specs, plain.feature_specs)
    }
