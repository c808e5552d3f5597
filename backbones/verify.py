"""The a-trous identity, measured: dilated features sampled at the removed strides against the undilated ones."""

from collections.abc import Mapping

import torch
from torch import nn

from ..registry import build_backbone

EXACT = 1e-4  # relative error that float32 explains


def randomise_norms(module: nn.Module) -> nn.Module:
    """Norm statistics and affine values as after training, in place: fresh ones hide mistakes."""
    for name, tensor in module.state_dict().items():
        last = name.rsplit(".", 1)[-1]
        if last == "running_var" or (tensor.dim() == 1 and last not in ("running_mean", "bias")):
            tensor.uniform_(0.5, 1.5)
        elif last in ("running_mean", "bias"):
            tensor.normal_(0, 0.2)
    return module


@torch.no_grad()
def verify_dilation(cfg: str | Mapping, size: tuple[int, int] = (97, 130), dtype=torch.float32, **overrides) -> dict[str, float]:
    """Relative error max|a - b| / max|b| of every level of a backbone against its undilated self.

    Args:
        cfg, overrides: as build_backbone. Without `weights`, weights and norm statistics are random.
        size: height and width of the random image; the default is no multiple of any stride.
        dtype: of weights and image.

    Returns {"c2": error, ...} of the returned levels. Norm layers are in evaluation mode. Raises InputError as
    build_backbone.
    """
    cfg = ({"type": cfg} if isinstance(cfg, str) else dict(cfg)) | overrides
    dilated = build_backbone(cfg).to(dtype).eval()
    if not cfg.get("weights"):
        randomise_norms(dilated)
    plain = build_backbone(cfg, **dilated.undilated, **({"load_weights": False} if cfg.get("weights") else {})).to(dtype).eval()
    plain.load_state_dict(dilated.state_dict())
    images = torch.randn(1, dilated.preprocess.channels, *size, dtype=dtype)
    errors = {}
    for fine, coarse, a, b in zip(dilated.feature_specs, plain.feature_specs, dilated(images).values(), plain(images).values()):
        step = coarse.stride // fine.stride
        a = a[..., ::step, ::step][..., : b.shape[-2], : b.shape[-1]]
        b = b[..., : a.shape[-2], : a.shape[-1]]  # networks that round sizes down: where both grids have the point
        errors[fine.name] = ((a - b).abs().max() / b.abs().max()).item()
    return errors
