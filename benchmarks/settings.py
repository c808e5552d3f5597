"""What a table of figures is about."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

Built = tuple[Callable[[], object], Callable[[object], object]]  # run and view, see works.py
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass
class Settings:
    """What a table is about; see tools/bench.py."""

    work: str
    backbone: str = "resnet50"
    neck: str | None = None
    detector: str = "mask_rcnn"
    size: tuple[int, int] = (480, 640)
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False
    memory_format: str = "contiguous"
    peers: bool = True
    memory: bool = True
    rounds: int = 10
    data_root: str = "../shared/coco-tiny"

    def __post_init__(self):
        for key, known in (("dtype", DTYPES), ("memory_format", FORMATS), ("device", ("cpu", "cuda"))):
            if getattr(self, key) not in known:
                raise InputError(f"{key}={getattr(self, key)}; known: {', '.join(known)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device=cuda: there is none")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def autocast(self):
        return torch.autocast(self.device, self.torch_dtype, enabled=self.dtype != "float32")

    def images(self) -> Tensor:
        torch.manual_seed(2)
        return torch.rand(self.batch, 3, *self.size).to(self.device)
