"""Precision and determinism of the computation."""

import os

import torch

from ..errors import InputError


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a device computes in a precision; otherwise the training would silently be slower or in float32.

    Args:
        precision: "no", "bf16" or "fp16".
        device: where the model runs.

    Raises:
        InputError: It does not.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError(f"precision=fp16 needs a CUDA device, this run is on {device.type}; use precision=bf16 or no")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise InputError(f"precision=bf16 needs a GPU of generation Ampere or later, got {name}; use precision=fp16")


def enable_determinism() -> None:
    """Make torch use deterministic algorithms; call it before the first use of CUDA.

    An operation that does not have a deterministic algorithm warns once and is used: the gradients of torchvision's
    deformable convolution, and of `AdaptiveAvgPool2d` in some networks of timm. torchvision computes RoIAlign from
    tensor operations in this mode.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
