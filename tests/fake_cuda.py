"""Modules on a GPU that does not exist: their tensors have shapes, strides and the device "cuda", but no values."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_cuda(*modules: nn.Module) -> Iterator[None]:
    """Move modules to a fake "cuda" for good, and make all tensors fake inside the context.

    Operations on a tensor of the GPU and one of the CPU fail as on a real GPU.
    """

    def moved(tensor: Tensor) -> Tensor:
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake

    with FakeTensorMode():
        for part in nn.ModuleList(modules).modules():
            for tensors in (part._parameters, part._buffers):
                tensors.update({name: moved(value) for name, value in tensors.items() if value is not None})
        yield
