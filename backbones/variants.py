"""The registered names: a table of settings, each also as `<name>_dc5` (output stride 16) and `<name>_dilated` (8)."""

import inspect

from ..registry import BACKBONES
from .resnet import BasicBlock, Bottleneck, ResNet

VARIANTS = {
    "resnet18": dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet34": dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet101": dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet152": dict(block=Bottleneck, layers=(3, 8, 36, 3)),
    "resnext50_32x4d": dict(block=Bottleneck, layers=(3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": dict(block=Bottleneck, layers=(3, 4, 23, 3), groups=32, width_per_group=8),
}
OUTPUT_STRIDES = {"": {}, "_dc5": {"output_stride": 16}, "_dilated": {"output_stride": 8}}
FIXED = {"block", "layers", "architecture"}  # a name says these


def _variant(name: str, settings: dict, stride: dict):
    def build(**arguments) -> ResNet:
        asked = {} if "replace_stride_with_dilation" in arguments else stride
        return ResNet(**{**settings, "architecture": name, **asked, **arguments})

    parameters = inspect.signature(ResNet).parameters
    build.__signature__ = inspect.Signature([p for key, p in parameters.items() if key not in FIXED])
    build.__doc__ = f"{name}{''.join(f', output stride {s}' for s in stride.values())}. Arguments: see ResNet."
    return build


for _name, _settings in VARIANTS.items():
    for _suffix, _stride in OUTPUT_STRIDES.items():
        BACKBONES.register_module(name=_name + _suffix, module=_variant(_name, _settings, _stride))
