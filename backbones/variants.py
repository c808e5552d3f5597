"""The registered names: a table of settings, each also as `<name>_dc5` (output stride 16) and `<name>_dilated` (8)."""

import inspect

from ..registry import BACKBONES
from .blocks import BasicBlock, Bottleneck
from .resnet import ResNet

DEPTHS = {
    18: dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    34: dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    50: dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    101: dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    152: dict(block=Bottleneck, layers=(3, 8, 36, 3)),
}
DEEP_STEM = dict(stem="deep", avg_down=True)
VARIANTS = {
    **{f"resnet{depth}": settings for depth, settings in DEPTHS.items()},
    "resnext50_32x4d": DEPTHS[50] | dict(groups=32, width_per_group=4),
    "resnext101_32x4d": DEPTHS[101] | dict(groups=32, width_per_group=4),
    "resnext101_32x8d": DEPTHS[101] | dict(groups=32, width_per_group=8),
    "resnext101_64x4d": DEPTHS[101] | dict(groups=64, width_per_group=4),
    "resnext152_32x8d": DEPTHS[152] | dict(groups=32, width_per_group=8),
    "wide_resnet50_2": DEPTHS[50] | dict(width_per_group=128),
    "wide_resnet101_2": DEPTHS[101] | dict(width_per_group=128),
    **{f"resnet{depth}d": settings | DEEP_STEM for depth, settings in DEPTHS.items()},
}
OUTPUT_STRIDES = {"": {}, "_dc5": {"output_stride": 16}, "_dilated": {"output_stride": 8}}
CIFAR = {  # section 4.2 of the ResNet paper: 6n + 2 layers, no detector's backbone
    f"resnet{6 * n + 2}_cifar": dict(block=BasicBlock, layers=(n, n, n), planes=(16, 32, 64), stem="cifar", pad_shortcut=True)
    for n in (3, 5, 7, 9, 18, 200)
}
FIXED = {"block", "layers", "planes", "architecture"}  # a name says these


def _variant(name: str, settings: dict, stride: dict):
    def build(**arguments) -> ResNet:
        asked = {} if arguments.get("replace_stride_with_dilation") is not None else stride
        return ResNet(**{**settings, "architecture": name, **asked, **arguments})

    parameters = inspect.signature(ResNet).parameters
    build.__signature__ = inspect.Signature([p for key, p in parameters.items() if key not in FIXED])
    build.__doc__ = f"{name}{''.join(f', output stride {s}' for s in stride.values())}. Arguments: see ResNet."
    return build


for _name, _settings in VARIANTS.items():
    for _suffix, _stride in OUTPUT_STRIDES.items():
        BACKBONES.register_module(name=_name + _suffix, module=_variant(_name, _settings, _stride))
for _name, _settings in CIFAR.items():
    BACKBONES.register_module(name=_name, module=_variant(_name, _settings, {}))
