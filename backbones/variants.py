"""Registered ResNet variants; `<name>_dc5` has output stride 16, `<name>_dilated` output stride 8."""

import inspect
from collections.abc import Callable
from typing import Any

from ..registry import BACKBONES
from .blocks import BasicBlock, Bottleneck
from .resnet import ResNet

DEPTHS: dict[int, dict] = {
    18: dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    34: dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    50: dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    101: dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    152: dict(block=Bottleneck, layers=(3, 8, 36, 3)),
}
VARIANTS: dict[str, dict] = {
    **{f"resnet{depth}": settings for depth, settings in DEPTHS.items()},
    "resnext50_32x4d": DEPTHS[50] | dict(groups=32, width_per_group=4),
    "resnext101_32x4d": DEPTHS[101] | dict(groups=32, width_per_group=4),
    "resnext101_32x8d": DEPTHS[101] | dict(groups=32, width_per_group=8),
    "resnext101_64x4d": DEPTHS[101] | dict(groups=64, width_per_group=4),
    "resnext152_32x8d": DEPTHS[152] | dict(groups=32, width_per_group=8),
    "wide_resnet50_2": DEPTHS[50] | dict(width_per_group=128),
    "wide_resnet101_2": DEPTHS[101] | dict(width_per_group=128),
    **{f"resnet{depth}d": settings | dict(stem="deep", avg_down=True) for depth, settings in DEPTHS.items()},
}
OUTPUT_STRIDES: dict[str, dict] = {"": {}, "_dc5": {"output_stride": 16}, "_dilated": {"output_stride": 8}}
# section 4.2 of the ResNet paper: 6n + 2 layers in three stages
CIFAR_VARIANTS: dict[str, dict] = {
    f"resnet{6 * n + 2}_cifar": dict(
        block=BasicBlock, layers=(n, n, n), planes=(16, 32, 64), stem="cifar", pad_shortcut=True
    )
    for n in (3, 5, 7, 9, 18, 200)
}
FIXED_ARGUMENTS = {"block", "layers", "planes", "architecture"}  # decided by the name


def _variant(name: str, settings: dict, output_stride: dict) -> Callable[..., ResNet]:
    """Return the function that builds a variant; its signature lists the arguments that the name leaves open."""

    def build(**arguments: Any) -> ResNet:
        defaults = settings | {"architecture": name}
        if arguments.get("replace_stride_with_dilation") is None:
            defaults |= output_stride
        return ResNet(**(defaults | arguments))

    free = [p for p in inspect.signature(ResNet).parameters.values() if p.name not in FIXED_ARGUMENTS]
    build.__signature__ = inspect.Signature(free)  # type: ignore[attr-defined]
    build.__doc__ = ResNet.__doc__
    build.architecture = name  # type: ignore[attr-defined]
    return build


for _name, _settings in VARIANTS.items():
    for _suffix, _output_stride in OUTPUT_STRIDES.items():
        BACKBONES.register_module(name=_name + _suffix, module=_variant(_name, _settings, _output_stride))
for _name, _settings in CIFAR_VARIANTS.items():
    BACKBONES.register_module(name=_name, module=_variant(_name, _settings, {}))
