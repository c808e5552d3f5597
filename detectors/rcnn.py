"""Faster R-CNN (arXiv:1506.01497) and Mask R-CNN (arXiv:1703.06870), composed of backbone, neck, RPN and RoI heads.

The config decides the form: FPN (a pyramid; RoIs are pooled from the level that their size names), DC5 (neck "identity"
on one dilated C5), or C4 (neck "identity" on C4 and `roi_heads=dict(type="stage", stage="c5")`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ..backbones.base import Backbone, check_levels
from ..errors import InputError, check_known
from ..layers.mask_ops import PASTES
from ..layers.winograd_conv import convert_to_winograd_
from ..necks.base import Neck
from ..registry import DETECTORS, PROPOSAL_GENERATORS, ROI_HEADS, Config, build, build_neck
from ..specs import FeatureSpec
from .base import Detector
from .sampling import CountedLosses


@contextmanager
def training_flag(training: bool, *modules: nn.Module) -> Iterator[None]:
    """Set the `training` flag of torchvision's RPN and RoI heads, which decides between losses and detections.

    The flags of their children stay, so norm layers keep their mode.
    """
    before = [module.training for module in modules]
    for module in modules:
        module.training = training
    try:
        yield
    finally:
        for module, mode in zip(modules, before):
            module.training = mode


@DETECTORS.register_module(name="faster_rcnn")
class FasterRCNN(Detector):
    """Two-stage detector; see `Detector` for inputs and outputs. Every part is a config or a built module.

    Args:
        backbone: backbone.
        neck: neck, built on the backbone's `feature_specs`.
        num_classes: number of foreground classes.
        rpn: proposal generator, built on the neck's `feature_specs` and called as torchvision's RegionProposalNetwork:
            (images, features, targets) -> (boxes per image, losses). See RPN.
        roi_heads: RoI heads, built on the levels of `roi_features` and called as torchvision's RoIHeads:
            (features, proposals, image sizes, targets) -> (detections, losses). See StandardRoIHeads and StageRoIHeads.
            Targets have "masks" and "seed" as given to the detector; torchvision's own heads need `MaskCrops.dense()`.
            Losses of either part that are not means over the images may be `CountedLosses`.
            If the config has a `stage`, the detector takes that stage from the backbone.
        roi_features: names of the neck's levels that RoIs are pooled from. Default: all but those that the neck adds
            above the backbone's deepest level (P6), which only the RPN uses (FPN paper, section 4.2).
        load_weights: False builds the backbone for its weights without reading them, because a checkpoint follows.
        size_divisor: see `Detector`.

    Raises:
        InputError: parts disagree, for example in levels, channels or masks.
    """

    label_offset = 1  # 0 is the background
    counts_vary = True

    def __init__(
        self,
        backbone: Config | Backbone,
        neck: Config | Neck = "fpn",
        num_classes: int = 80,
        *,
        rpn: Config | nn.Module = "rpn",
        roi_heads: Config | nn.Module = "standard",
        roi_features: Sequence[str] | None = None,
        load_weights: bool = True,
        size_divisor: int | None = None,
    ):
        super().__init__(backbone, num_classes, load_weights, size_divisor)
        arguments: dict[str, Any] = {"masks": True} if "segm" in self.tasks else {}
        stage = roi_heads.get("stage") if isinstance(roi_heads, Mapping) else None
        if isinstance(stage, str):
            arguments["stage"] = self.backbone.pop_stage(stage)
        self.neck = build_neck(neck, self.backbone.feature_specs)
        self.roi_specs = self._select_roi_specs(roi_features)
        if "stage" in arguments and self.roi_specs != self.backbone.feature_specs[-1:]:
            pooled = ", ".join(f"{spec.name} with {spec.channels} channels" for spec in self.roi_specs)
            raise InputError(
                f"the stage {stage!r} of the RoI heads continues the level before it, but RoIs come from {pooled}; use "
                "neck='identity' and out_features with the stage and the level before it, such as ('c4', 'c5')"
            )
        self.rpn = build(PROPOSAL_GENERATORS, rpn, feature_specs=self.neck.feature_specs)
        arguments |= {"feature_specs": self.roi_specs, "num_classes": num_classes}
        self.roi_heads = build(ROI_HEADS, roi_heads, **arguments)
        has_mask = getattr(self.roi_heads, "has_mask", None)
        if "segm" in self.tasks and not (has_mask and has_mask()):
            raise InputError(f"mask_rcnn needs RoI heads with masks, got {type(self.roi_heads).__name__} without")
        # not the backbone, which may be the caller's own
        convert_to_winograd_(nn.ModuleList([self.neck, self.rpn, self.roi_heads]))

    def _select_roi_specs(self, names: Sequence[str] | None) -> tuple[FeatureSpec, ...]:
        specs = self.neck.feature_specs
        if names is None:
            deepest = max((spec.level for spec in self.backbone.feature_specs), default=0)
            names = [spec.name for spec in specs if spec.level <= deepest]
        check_levels("roi_features", [spec.name for spec in specs], names)
        return tuple(spec for spec in specs if spec.name in names)

    def head_losses(
        self, features: dict[str, Tensor], images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        with training_flag(True, self.rpn, self.roi_heads):
            proposals, rpn_losses = self.rpn(images, features, targets)
            # the mean over zero RoIs would be NaN: without proposals the whole image is one
            proposals = [
                boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]])
                for boxes, (height, width) in zip(proposals, images.image_sizes)
            ]
            _, roi_losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        counts = getattr(rpn_losses, "counts", {}) | getattr(roi_losses, "counts", {})
        return CountedLosses({**rpn_losses, **roi_losses}, counts)

    def head_detections(self, features: dict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        with training_flag(False, self.rpn, self.roi_heads):
            proposals, _ = self.rpn(images, features)
            detections, _ = self.roi_heads(features, proposals, images.image_sizes)
        return detections


@DETECTORS.register_module(name="mask_rcnn")
class MaskRCNN(FasterRCNN):
    """Faster R-CNN whose RoI heads predict masks.

    Args:
        arguments: see FasterRCNN.
        mask_paste: how a mask is resized to its box: "torchvision" to the box in whole pixels, "detectron2" by sampling
            at the centres of the pixels (mmdetection too).

    Raises:
        InputError: as FasterRCNN, or `mask_paste` is unknown.
    """

    tasks = ("bbox", "segm")

    def __init__(self, backbone: Config | Backbone, *arguments: Any, mask_paste: str = "torchvision", **options: Any):
        super().__init__(backbone, *arguments, **options)
        check_known("mask_paste", PASTES, mask_paste)
        self.mask_paste = mask_paste
