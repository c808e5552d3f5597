"""Backbones for detectron2.

Importing this module registers `build_detbackbones_backbone`, `build_detbackbones_fpn_backbone` and
`build_retinanet_detbackbones_fpn_backbone` in detectron2's `BACKBONE_REGISTRY`. `add_detbackbones_config` adds their
settings to a config. Levels have detectron2's names, res2 for c2 to res5 for c5, so its configs need no other names.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..backbones import base
from ..errors import check_known
from ..registry import Config
from .keys import hide_prefix
from .source import build_source, pixel_statistics, required

with required("detectron2", "see https://detectron2.readthedocs.io/en/latest/tutorials/install.html"):
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

NAMES = {"c1": "stem", **{f"c{level}": f"res{level}" for level in range(2, 6)}}  # detectron2's "stem" has stride 4
LEVELS = {name: level for level, name in NAMES.items() if level != "c1"}


class DetBackbonesBackbone(Backbone):
    """A backbone with detectron2's names and `ShapeSpec`s. State-dict keys are ours (torchvision's).

    Args:
        backbone: a name, a config, the path of a run of ours, or a built backbone.
        out_features: levels to return, of res2 to res5; default: those that the backbone returns.
        arguments: arguments of the backbone.

    Raises:
        InputError: a name or argument is unknown or cannot be honoured.
    """

    def __init__(self, backbone: Config | base.Backbone, out_features: Sequence[str] | None = None, **arguments: Any):
        super().__init__()
        if out_features is not None:
            check_known("level in out_features:", LEVELS, *out_features)
            arguments["out_features"] = tuple(LEVELS[name] for name in out_features)
        self.body = build_source(backbone, **arguments)
        hide_prefix(self, "body")

    @property
    def size_divisibility(self) -> int:
        """Multiple to which detectron2 pads the sides of images."""
        return self.body.size_divisor

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every level by name."""
        specs = self.body.feature_specs
        return {NAMES[spec.name]: ShapeSpec(channels=spec.channels, stride=spec.stride) for spec in specs}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of N x C x H x W normalised images by name."""
        return {NAMES[name]: feature for name, feature in self.body(images).items()}


def add_detbackbones_config(cfg: Any, backbone: Config = "resnet50", **arguments: Any) -> None:
    """Set a detectron2 config to a backbone of ours.

    The settings are the node `MODEL.DETBACKBONES`: `BACKBONE` is a name or the path of a run, every other key is an
    argument of the backbone in upper case. Images become RGB with the mean and standard deviation of the weights, on
    detectron2's scale of 0 to 255, so `MODEL.PIXEL_MEAN` normalises them once. `MODEL.BACKBONE.FREEZE_AT` and
    `MODEL.RESNETS.NORM` have no effect: give `freeze` and `norm`.

    Args:
        cfg: a config of detectron2, which is changed.
        backbone: a name, or the path of a run of ours.
        arguments: arguments of the backbone, such as `weights=`, `output_stride=8`, `freeze=2`.

    Raises:
        InputError: as `build_backbone`.
    """
    node = type(cfg)(new_allowed=True)
    node.BACKBONE = backbone
    for name, value in arguments.items():
        node[name.upper()] = value
    cfg.MODEL.DETBACKBONES = node
    cfg.MODEL.BACKBONE.NAME = "build_detbackbones_backbone"
    mean, std = pixel_statistics(build_source(backbone, **arguments))
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = mean, std


@BACKBONE_REGISTRY.register()
def build_detbackbones_backbone(cfg: Any, input_shape: ShapeSpec) -> DetBackbonesBackbone:
    """Build the backbone of `cfg.MODEL.DETBACKBONES` with the levels of `cfg.MODEL.RESNETS.OUT_FEATURES`."""
    arguments = {name.lower(): value for name, value in cfg.MODEL.DETBACKBONES.items()}
    return DetBackbonesBackbone(
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES, in_channels=input_shape.channels, **arguments
    )


def _build_fpn(cfg: Any, bottom_up: DetBackbonesBackbone, top_block: Any) -> FPN:
    settings = cfg.MODEL.FPN
    return FPN(
        bottom_up,
        settings.IN_FEATURES,
        settings.OUT_CHANNELS,
        norm=settings.NORM,
        top_block=top_block,
        fuse_type=settings.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_detbackbones_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's FPN on our backbone, whose strides must double from level to level."""
    return _build_fpn(cfg, build_detbackbones_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_detbackbones_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's FPN with P6 and P7 of C5 on our backbone."""
    bottom_up = build_detbackbones_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _build_fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))
