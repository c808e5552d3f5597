"""Backbones for torchvision's detection and segmentation models.

torchvision's detection models normalise images themselves, with ImageNet's statistics unless told otherwise. So the
parts of this module do not normalise: `rcnn_arguments` and `retinanet_arguments` give the model the statistics of the
weights. Its segmentation models get images that are normalised already; use `model.backbone.preprocess(images)`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchorGenerator

from ..backbones.base import Backbone
from ..backbones.preprocess import Preprocess
from ..detectors.anchors import AnchorGenerator, default_sizes
from ..detectors.base import shared_channels
from ..detectors.roi_pooler import RoIPooler
from ..errors import InputError, check_known
from ..registry import Config, build_neck
from ..specs import FeatureSpec
from .keys import hide_prefix
from .source import build_source

NUM_PARTS = 5  # the stem and four stages, which torchvision counts in `trainable_layers`
POOL_SIZES = {"box": 7, "mask": 14, "keypoint": 14}  # heads of torchvision's R-CNNs -> cells per side of a RoI
RCNN_SCALE, RCNN_LEVELS = 8.0, (2, 3, 4, 5, 6)  # anchors of 32 px on level 2 ... 512 px on level 6
RETINANET_SCALE, RETINANET_LEVELS = 4.0, (3, 4, 5, 6, 7)


class BackboneWithFPN(nn.Module):
    """A backbone and a neck with the outputs and the state-dict keys of torchvision's class of this name.

    Args:
        body: returns the levels that the neck takes.
        neck: name or config of a neck.

    Attributes:
        out_channels: number of channels of every output.
        feature_specs: FeatureSpec of every output: "0", "1", ... and "pool", or "p6" and "p7".
        pooled_specs: those that RoI heads pool from, which are the outputs without the extra levels.

    Raises:
        InputError: the neck does not fit, or its outputs differ in their number of channels.
    """

    def __init__(self, body: Backbone, neck: Config = "fpn"):
        super().__init__()
        self.body = body
        self.fpn = build_neck(neck, body.feature_specs)
        specs = self.fpn.feature_specs
        self.out_channels = shared_channels(specs)
        num_extra = len(specs) - len(body.feature_specs)
        names = [str(index) for index in range(len(body.feature_specs))]
        names += ["pool"] if num_extra == 1 else [spec.name for spec in specs[len(names) :]]
        self.feature_specs = tuple(
            FeatureSpec(name, spec.level, spec.channels, spec.stride, spec.dilation) for name, spec in zip(names, specs)
        )
        self.pooled_specs = self.feature_specs[: len(body.feature_specs)]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the pyramid of N x C x H x W normalised images, fine to coarse."""
        maps = self.fpn(self.body(images)).values()
        return OrderedDict((spec.name, feature) for spec, feature in zip(self.feature_specs, maps))


def resnet_fpn_backbone(
    backbone_name: Config | Backbone,
    weights: str | None = None,
    trainable_layers: int | None = None,
    returned_layers: Sequence[int] = (1, 2, 3, 4),
    neck: Config = "fpn",
    **arguments: Any,
) -> BackboneWithFPN:
    """Build what torchvision's function of this name builds, from any backbone and neck of ours.

    Args:
        backbone_name: a name, a config, the path of a run of ours, or a built backbone.
        weights: as the backbone takes them; not for a run, which has its own.
        trainable_layers: number of parts, counted from the deepest stage, that are trained. Default: what the config or
            run says; with `weights`, 3.
        returned_layers: stages that the neck takes, 1 for c2 to 4 for c5.
        neck: name or config of a neck; `dict(type="fpn", extra_levels="conv_on_input")` for torchvision's RetinaNet.
        arguments: other arguments of the backbone.

    Raises:
        InputError: a name or argument is unknown or cannot be honoured.
    """
    if not isinstance(backbone_name, Backbone):
        arguments["out_features"] = tuple(f"c{layer + 1}" for layer in returned_layers)
    if weights is not None:
        arguments["weights"] = weights
        trainable_layers = 3 if trainable_layers is None else trainable_layers
    if trainable_layers is not None:
        if trainable_layers not in range(NUM_PARTS + 1):
            raise InputError(f"trainable_layers must be 0 to {NUM_PARTS}, got {trainable_layers!r}")
        arguments["freeze"] = NUM_PARTS - trainable_layers
    return BackboneWithFPN(build_source(backbone_name, **arguments), neck)


class SegmentationBackbone(nn.Module):
    """A backbone with the outputs and state-dict keys that torchvision's DeepLabV3 and FCN take.

    Args:
        backbone: a name, a config, the path of a run of ours, or a built backbone that returns the levels.
        aux: also return the level before the deepest one, for the auxiliary classifier.
        arguments: arguments of the backbone.

    Attributes:
        out_channels, aux_channels: numbers of channels, for `DeepLabHead` and `FCNHead`.

    Raises:
        InputError: as `resnet_fpn_backbone`.
    """

    def __init__(self, backbone: Config | Backbone = "resnet50_dilated", aux: bool = False, **arguments: Any):
        super().__init__()
        levels = {"aux": "c4", "out": "c5"} if aux else {"out": "c5"}
        if not isinstance(backbone, Backbone):
            arguments["out_features"] = tuple(levels.values())
        self.body = build_source(backbone, **arguments)
        channels = {spec.name: spec.channels for spec in self.body.feature_specs}
        check_known("level of the backbone:", channels, *levels.values())
        self.levels = levels
        self.out_channels = channels["c5"]
        self.aux_channels = channels["c4"] if aux else None
        hide_prefix(self, "body")

    @property
    def preprocess(self) -> Preprocess:
        """Normalise images, uint8 or float in [0, 1], for the weights."""
        return self.body.preprocess

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return {"aux": ..., "out": ...} of N x C x H x W normalised images."""
        features = self.body(images)
        return OrderedDict((name, features[level]) for name, level in self.levels.items())


def image_arguments(backbone: BackboneWithFPN) -> dict[str, Any]:
    """Return `image_mean` and `image_std` of a detection model, so that it normalises images for the weights."""
    preprocess = backbone.body.preprocess
    return {"image_mean": preprocess.mean.flatten().tolist(), "image_std": preprocess.std.flatten().tolist()}


def rcnn_arguments(backbone: BackboneWithFPN, *heads: str) -> dict[str, Any]:
    """Return arguments of torchvision's FasterRCNN, MaskRCNN or KeypointRCNN that fit any backbone.

    torchvision infers strides and levels from the sizes of maps, which is wrong if dilation repeats a stride and if a
    level is left out. For plain networks the model computes the same with and without these arguments.

    Args:
        backbone: that of the model.
        heads: "mask" or "keypoint" besides "box".

    Raises:
        InputError: a head is unknown.
    """
    check_known("head", POOL_SIZES, *heads)
    pools = {
        f"{head}_roi_pool": RoIPooler(backbone.pooled_specs, POOL_SIZES[head], aligned=False)
        for head in ("box", *heads)
    }
    anchors = _anchor_generator(backbone, RCNN_SCALE, RCNN_LEVELS, 1)
    return {**image_arguments(backbone), "rpn_anchor_generator": anchors, **pools}


def retinanet_arguments(backbone: BackboneWithFPN) -> dict[str, Any]:
    """Return arguments of torchvision's RetinaNet that fit any backbone, see `rcnn_arguments`."""
    anchors = _anchor_generator(backbone, RETINANET_SCALE, RETINANET_LEVELS, 3)
    return {**image_arguments(backbone), "anchor_generator": anchors}


def _anchor_generator(
    backbone: BackboneWithFPN, scale: float, single_levels: Sequence[int], octaves: int
) -> TorchvisionAnchorGenerator:
    sizes = default_sizes(backbone.feature_specs, scale, single_levels, octaves)
    return AnchorGenerator(backbone.feature_specs, sizes, round_anchors=True)
