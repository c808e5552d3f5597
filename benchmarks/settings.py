"""The settings of a benchmark; tools/bench.py describes them."""

from typing import Literal

from pydantic import BaseModel, PositiveInt


class Settings(BaseModel):
    """Settings of a benchmark."""

    backbone: str = "resnet50"
    detector: Literal["faster_rcnn", "mask_rcnn"] = "mask_rcnn"
    size: tuple[PositiveInt, PositiveInt] = (480, 640)
    batch: PositiveInt = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    memory_format: Literal["contiguous_format", "channels_last"] = "contiguous_format"
    memory: bool = True
    rounds: PositiveInt = 10
    data_root: str | None = None
