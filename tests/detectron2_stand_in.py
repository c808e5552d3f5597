"""The interface of detectron2 that our backbones use, for tests where detectron2 is not installed.

Written from detectron2's documentation. Its `FPN` has only the lateral convolutions and the check of strides of
detectron2's.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn


@dataclass
class ShapeSpec:
    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Registry(dict):
    def register(self):
        def add(function):
            assert function.__name__ not in self
            self[function.__name__] = function
            return function

        return add


class Backbone(nn.Module):
    @property
    def size_divisibility(self) -> int:
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {}


class CfgNode(dict):
    """A dict with attributes, as detectron2's config."""

    def __init__(self, values: Any = None, new_allowed: bool = False):
        super().__init__(values or {})

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class TopBlock(nn.Module):
    def __init__(self, in_channels: int | None = None, out_channels: int | None = None):
        super().__init__()
        self.in_channels = in_channels


class FPN(Backbone):
    def __init__(self, bottom_up, in_features, out_channels, norm="", top_block=None, fuse_type="sum"):
        super().__init__()
        assert isinstance(bottom_up, Backbone)
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        assert all(b == 2 * a for a, b in zip(strides, strides[1:])), f"strides {strides} do not double"
        self.bottom_up, self.top_block = bottom_up, top_block
        self.laterals = nn.ModuleDict({name: nn.Conv2d(shapes[name].channels, out_channels, 1) for name in in_features})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.bottom_up(images)
        return {f"p{name[3:]}": lateral(features[name]) for name, lateral in self.laterals.items()}


class LastLevelMaxPool(TopBlock):
    pass


class LastLevelP6P7(TopBlock):
    pass


def modules() -> dict[str, ModuleType]:
    """The modules to put into `sys.modules`."""
    contents: dict[str, dict[str, Any]] = {
        "detectron2": {},
        "detectron2.config": {"get_cfg": get_cfg},
        "detectron2.layers": {"ShapeSpec": ShapeSpec},
        "detectron2.modeling": {"build_backbone": build_backbone},
        "detectron2.modeling.backbone": {"BACKBONE_REGISTRY": REGISTRY, "FPN": FPN, "Backbone": Backbone},
        "detectron2.modeling.backbone.fpn": {"LastLevelMaxPool": LastLevelMaxPool, "LastLevelP6P7": LastLevelP6P7},
    }
    REGISTRY.clear()
    built = {}
    for name, attributes in contents.items():
        built[name] = ModuleType(name)
        vars(built[name]).update(attributes)
    return built


REGISTRY = Registry()


def build_backbone(cfg: CfgNode) -> Backbone:
    return REGISTRY[cfg.MODEL.BACKBONE.NAME](cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))


def get_cfg() -> CfgNode:
    fpn = CfgNode({"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"})
    model = CfgNode({"BACKBONE": CfgNode(), "RESNETS": CfgNode({"OUT_FEATURES": ["res4"]}), "FPN": fpn})
    return CfgNode({"MODEL": model, "INPUT": CfgNode()})
