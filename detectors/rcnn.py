"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) and Mask R-CNN (He et al. 2017, arXiv:1703.06870).

Three forms, told apart by data: FPN (a pyramid; RoIs from the level that their size names), DC5 (neck "none" on one
dilated C5), and C4 (neck "none" on C4; `roi_stage="c5"` applies the backbone's own stage 5 to every RoI, the system of
the ResNet paper, arXiv:1512.03385, appendix A).

The RPN and the RoI heads are torchvision's; what is ours is where they get geometry from (`anchors.py`, `pooler.py`)
and that boxes stay float32. Words: proposals are the RPN's boxes, RoIs those sampled from them; logits and deltas are
what a head predicts; a stage is the blocks that make one level of the backbone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from ..layers.winograd import with_winograd
from ..specs import FeatureSpec
from ..layers.conv_norm_act import norm_layer
from ..errors import InputError, did_you_mean
from ..registry import DETECTORS, build_neck
from .anchors import DeclaredAnchorGenerator, default_sizes
from .base import Detector, shared_width
from .roi_pooler import DeclaredRoIPooler

SINGLE_LEVELS = (2, 3, 4, 5, 6)  # the levels P2-P6, whose anchor sizes a single level carries


class Float32RPNHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [t.float() for t in logits], [t.float() for t in deltas]


class Float32BoxPredictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class Float32MaskPredictor(MaskRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class StageHead(nn.Module):
    """Box head of the C4 form: the backbone's stage on every RoI, then the mean over space (detectron2 Res5ROIHeads).

    K x C4 channels x 14 x 14 -> K x C5 channels; `made`, the stage's K x C5 channels x 7 x 7 (where it has stride 2), is
    for the masks.
    """

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage
        self.made: Tensor | None = None

    def forward(self, pooled: Tensor) -> Tensor:
        self.made = self.stage(pooled)
        return self.made.mean(dim=(2, 3))


class StageRoIHeads(RoIHeads):
    """RoI heads of the C4 form: box head and mask head are one stage of the backbone, which box_head holds.

    In training masks are predicted for RoIs that boxes are predicted for as well, from what the stage has made of them
    there, so it runs once (detectron2 Res5ROIHeads).
    """

    def add_masks(self, pooler: DeclaredRoIPooler, predictor: nn.Module) -> None:
        self.mask_pooler, self.mask_predictor = pooler, predictor
        self.mask_roi_pool, self.mask_head = self.stage_on_masks, nn.Identity()

    def select_training_samples(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple:
        samples = super().select_training_samples(proposals, targets)
        self.is_object = torch.cat(samples[2]) > 0  # their labels
        return samples

    def stage_on_masks(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        made, self.box_head.made = self.box_head.made, None
        if self.training and self.mask_pooler.output_size == self.box_roi_pool.output_size:
            return made[self.is_object]
        del made  # not kept while the stage works
        return self.box_head.stage(self.mask_pooler(features, boxes, image_shapes))

    def forward(self, *args, **kwargs) -> tuple:
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.box_head.made = self.is_object = None  # a graph does not outlive its step


@contextmanager
def acting(training: bool, *modules: nn.Module) -> Iterator[None]:
    """Let torchvision's RPN and RoIHeads sample and compute losses (True) or detect (False).

    They choose by their own `training` flag. Only that flag changes, not their children's: norm layers keep their mode.
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
    """Two-stage detector. Call it as Detector says.

    Args:
        backbone, neck: configs (a name or a dict with `type`).
        num_classes: foreground classes.
        load_weights: False builds the backbone for its weights without reading them: a checkpoint follows.
        roi_stage: the backbone's deepest stage ("c5"), applied to every RoI (C4 form); None for heads of their own.
        roi_features: names of the neck's levels that RoIs come from. None: all but those that the neck adds on top of
            the backbone's deepest (P6), which are for the RPN alone (FPN paper, section 4.2).
        anchor_sizes: pixels, a sequence for every level. None: `anchor_scale * 2**level`, and on a single level those
            of the levels 2 to 6.
        anchor_scale: the 8 of the FPN paper gives 32 px on P2 ... 512 px on P6.
        aspect_ratios, round_anchors: see DeclaredAnchorGenerator.
        rpn_conv_depth: 3x3 convolutions of the RPN head.
        rpn_*, box_*: as in torchvision's FasterRCNN; pairs are (training, evaluation).
        box_head_convs: widths of 3x3 convolutions before the fully connected layer; none: two fully connected layers.
        box_head_dim: width of the fully connected layers.
        box_pool_size: RoI cells a side; not given: 7, and 14 before a stage.
        head_norm: norm of the heads' convolutions ("batch", "group", ...), None for none.
        roi_sampling_ratio, roi_aligned: see DeclaredRoIPooler.

    Raises InputError where parts disagree: widths of the levels, anchor sizes and levels, RoI features and levels, the
    stage and what it is given.
    """

    first_label = 1

    def __init__(
        self,
        backbone: str | Mapping,
        neck: str | Mapping = "fpn",
        num_classes: int = 80,
        *,
        load_weights: bool = True,
        roi_stage: str | None = None,
        roi_features: Sequence[str] | None = None,
        anchor_sizes: Sequence[Sequence[float]] | None = None,
        anchor_scale: float = 8.0,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
        rpn_conv_depth: int = 1,
        rpn_pre_nms_top_n: Sequence[int] = (2000, 1000),
        rpn_post_nms_top_n: Sequence[int] = (1000, 1000),
        rpn_nms_thresh: float = 0.7,
        rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3,
        rpn_batch_size_per_image: int = 256,
        rpn_positive_fraction: float = 0.5,
        box_head_convs: Sequence[int] = (),
        box_head_dim: int = 1024,
        box_pool_size: int | None = None,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25,
        head_norm: str | None = None,
        roi_sampling_ratio: int = 2,
        roi_aligned: bool = True,
    ):
        super().__init__(backbone, num_classes, load_weights)
        stage = None if roi_stage is None else self._take_stage(roi_stage)
        self.neck = build_neck(neck, self.backbone.feature_specs)
        specs = self.neck.feature_specs
        channels = shared_width(specs, neck)

        sizes = default_sizes(specs, anchor_scale, SINGLE_LEVELS) if anchor_sizes is None else anchor_sizes
        anchors = DeclaredAnchorGenerator(specs, sizes, aspect_ratios, round_anchors)
        self.rpn = RegionProposalNetwork(
            anchors, with_winograd(Float32RPNHead(channels, anchors.num_anchors_per_location()[0], rpn_conv_depth)),
            rpn_fg_iou_thresh, rpn_bg_iou_thresh, rpn_batch_size_per_image, rpn_positive_fraction,
            dict(zip(("training", "testing"), rpn_pre_nms_top_n)), dict(zip(("training", "testing"), rpn_post_nms_top_n)),
            rpn_nms_thresh,
        )  # fmt: skip

        self.roi_specs = self._roi_specs(roi_features)
        self.roi_options = {"sampling_ratio": roi_sampling_ratio, "aligned": roi_aligned}
        if stage is not None:
            self._check_stage(roi_stage)
            box_head, box_dim, pool_size = StageHead(stage), stage.spec.channels, box_pool_size or 14
        else:
            pool_size, box_dim = box_pool_size or 7, box_head_dim
            if box_head_convs:
                shape = (channels, pool_size, pool_size)
                box_head = with_winograd(FastRCNNConvFCHead(shape, list(box_head_convs), [box_dim], norm_layer(head_norm)))
            else:
                box_head = TwoMLPHead(channels * pool_size**2, box_dim)
        self.roi_heads = (RoIHeads if stage is None else StageRoIHeads)(
            DeclaredRoIPooler(self.roi_specs, pool_size, **self.roi_options),
            box_head, Float32BoxPredictor(box_dim, num_classes + 1),
            box_fg_iou_thresh, box_bg_iou_thresh, box_batch_size_per_image, box_positive_fraction,
            None, box_score_thresh, box_nms_thresh, box_detections_per_img,
        )  # fmt: skip

    def _take_stage(self, name: str) -> nn.Module:
        if not hasattr(self.backbone, "split_stage"):
            raise InputError(f"roi_stage={name!r}: backbone {type(self.backbone).__name__} cannot hand over a stage")
        return self.backbone.split_stage(name)

    def _roi_specs(self, names: Sequence[str] | None) -> tuple[FeatureSpec, ...]:
        specs = {spec.name: spec for spec in self.neck.feature_specs}
        if names is None:
            deepest = max(spec.level for spec in self.backbone.feature_specs)
            return tuple(spec for spec in specs.values() if spec.level <= deepest)
        for name in names:
            if name not in specs:
                raise InputError(f"roi_features names {name!r}, which the neck does not hand on; {did_you_mean(name, specs)}")
        return tuple(spec for spec in specs.values() if spec.name in names)

    def _check_stage(self, name: str) -> None:
        before, given = self.backbone.feature_specs[-1], self.roi_specs
        if given != (before,):
            pooled = ", ".join(f"{spec.name} with {spec.channels} channels" for spec in given)
            raise InputError(f"roi_stage={name!r} goes on from {before.name} with {before.channels} channels, "
                             f"but RoIs come from {pooled}; take neck 'none' and one level")  # fmt: skip

    def head_losses(
        self, features: dict[str, Tensor], images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        with acting(True, self.rpn, self.roi_heads):
            proposals, rpn_losses = self.rpn(images, features, targets)
            # without any proposal or object a mean over no RoI would be NaN: the whole image is then a sample
            proposals = [p if len(p) else p.new_tensor([[0, 0, w, h]]) for p, (h, w) in zip(proposals, images.image_sizes)]
            _, roi_losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {**rpn_losses, **roi_losses}

    def head_detections(self, features: dict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        with acting(False, self.rpn, self.roi_heads):
            proposals, _ = self.rpn(images, features)
            detections, _ = self.roi_heads(features, proposals, images.image_sizes)
        return detections


@DETECTORS.register_module(name="mask_rcnn")
class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for every box.

    Args:
        mask_pool_size: RoI cells a side; the predicted mask has twice as many. In C4 form the stage halves them before.
        mask_channels: widths of the 3x3 convolutions; none in C4 form, where the stage takes their place.
        mask_dim: width of the transposed convolution.
        Others as FasterRCNN.
    """

    has_masks = True

    def __init__(
        self,
        *args,
        mask_pool_size: int = 14,
        mask_channels: Sequence[int] = (256, 256, 256, 256),
        mask_dim: int = 256,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        heads, pooler = self.roi_heads, DeclaredRoIPooler(self.roi_specs, mask_pool_size, **self.roi_options)
        if isinstance(heads, StageRoIHeads):
            width = heads.box_head.stage.spec.channels
            heads.add_masks(pooler, Float32MaskPredictor(width, mask_dim, self.num_classes + 1))
            return
        if not mask_channels or min(mask_channels) < 1:
            raise InputError(f"mask_channels={tuple(mask_channels)}: one or more widths of at least 1")
        heads.mask_roi_pool = pooler
        heads.mask_head = with_winograd(
            MaskRCNNHeads(self.roi_specs[0].channels, list(mask_channels), 1, norm_layer(kwargs.get("head_norm")))
        )
        heads.mask_predictor = Float32MaskPredictor(mask_channels[-1], mask_dim, self.num_classes + 1)
