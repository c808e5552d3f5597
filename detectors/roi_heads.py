"""torchvision's RoI heads of Faster and Mask R-CNN, configured from the neck's FeatureSpecs.

A proposal is a box of the RPN, an RoI a proposal that is sampled or scored; logits and deltas are what a head predicts.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from ..errors import InputError
from ..layers.mask_crops import project_masks
from ..layers.norm import norm_constructor
from ..registry import ROI_HEADS
from ..specs import FeatureSpec
from .base import shared_channels
from .boxes import box_coder
from .class_weights import class_weight_tensor
from .predictors import Float32BoxPredictor, Float32MaskPredictor
from .roi_pooler import RoIPooler
from .sampling import CountedLosses, SeededSampler

SEED_STREAM = 0x9E3779B9  # see SeededSampler; the RPN has another


class BoxRoIHeads(RoIHeads):
    """torchvision's RoIHeads with the defaults of Faster R-CNN, and losses that never make all masks dense.

    A subclass defines `predict_boxes`, and `predict_masks` if it has masks, for the losses.

    Args:
        box_roi_pool, box_head, box_predictor: see torchvision's RoIHeads.
        fg_iou_thresh, bg_iou_thresh: IoU with an object from which a proposal is foreground, below which background.
        batch_size_per_image, positive_fraction: RoIs sampled for the losses, and the share of foreground.
        score_thresh: detections with a lower score are dropped.
        nms_thresh: IoU above which NMS drops a detection.
        detections_per_img: detections kept per image.
        bbox_reg_weights: factors on the deltas (dx, dy, dw, dh) that the head predicts.
        class_weights: weight of each foreground class in `loss_classifier`, in the order of the labels; the background
            weighs 1. The loss is the weighted mean: the sum over RoIs, each times the weight of its label, divided by
            the sum of these weights. None for equal weights.

    Raises:
        InputError: `class_weights` is not one positive number per class.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        box_roi_pool: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        /,
        *,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.5,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(
            box_roi_pool=box_roi_pool,
            box_head=box_head,
            box_predictor=box_predictor,
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            bbox_reg_weights=None,  # see box_coder below
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )
        self.box_coder = box_coder(bbox_reg_weights)
        self.fg_bg_sampler = SeededSampler(batch_size_per_image, positive_fraction, SEED_STREAM)
        weights = None
        if class_weights is not None:
            predictor: Any = box_predictor  # row 0 is the background
            weights = F.pad(class_weight_tensor(class_weights, predictor.cls_score.out_features - 1), (1, 0), value=1.0)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return (detections, {}) in evaluation mode and ([], losses) in training mode, as torchvision's RoIHeads.

        The proposals of a target with "seed" are sampled with that seed.
        """
        if not self.training:
            return super().forward(features, proposals, image_shapes)
        if targets is None:
            raise ValueError("targets are required in training mode")
        rois, matched_indices, labels, regression_targets = self.select_training_samples(proposals, targets)
        roi_features, logits, deltas = self.predict_boxes(features, rois, image_shapes)
        loss_classifier, loss_box_reg = fastrcnn_loss(logits, deltas, labels, regression_targets)
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        counts: dict[str, int | Tensor] = dict.fromkeys(losses, len(logits))
        if self.class_weights is not None:
            all_labels, weights = torch.cat(labels), self.class_weights.to(logits.dtype)
            losses["loss_classifier"] = F.cross_entropy(logits, all_labels, weights)
            counts["loss_classifier"] = weights[all_labels].sum()
        if self.has_mask():
            foreground = [image_labels > 0 for image_labels in labels]
            boxes = [image_boxes[keep] for image_boxes, keep in zip(rois, foreground)]
            losses["loss_mask"] = mask_loss(
                self.predict_masks(features, boxes, image_shapes, roi_features[torch.cat(foreground)]),
                boxes,
                targets,
                [indices[keep] for indices, keep in zip(matched_indices, foreground)],
            )
            counts["loss_mask"] = sum(map(len, boxes))
        return [], CountedLosses(losses, counts)

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Any]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        self.fg_bg_sampler.set_seeds(targets)
        return super().select_training_samples(proposals, targets)

    def predict_boxes(
        self, features: dict[str, Tensor], rois: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a head makes of each RoI, for `predict_masks`; class logits; and box deltas."""
        raise NotImplementedError

    def predict_masks(
        self,
        features: dict[str, Tensor],
        rois: list[Tensor],
        image_shapes: list[tuple[int, int]],
        roi_features: Tensor | None = None,
    ) -> Tensor:
        """Return mask logits K x classes x M x M of RoIs.

        `roi_features` is what `predict_boxes` returned for the same RoIs; None if that has not been computed.
        """
        raise NotImplementedError


def mask_loss(
    logits: Tensor, rois: list[Tensor], targets: list[dict[str, Any]], matched_indices: list[Tensor]
) -> Tensor:
    """Return the mean cross-entropy of the masks of each RoI's class (arXiv:1703.06870, section 3).

    It is torchvision's `maskrcnn_loss`.

    Args:
        logits: K x classes x M x M.
        rois: per image K_i x 4 xyxy in pixels.
        targets: per image "labels" N, and "masks" N x H x W or `MaskCrops`.
        matched_indices: per image K_i, the object of each RoI.
    """
    labels = torch.cat([target["labels"][indices] for target, indices in zip(targets, matched_indices)])
    if not len(labels):
        return logits.sum() * 0
    resolution = logits.shape[-1]
    masks = [
        project_masks(target["masks"], boxes, indices, resolution)
        for target, boxes, indices in zip(targets, rois, matched_indices)
    ]
    return F.binary_cross_entropy_with_logits(
        logits[torch.arange(len(labels), device=labels.device), labels], torch.cat(masks)
    )


@ROI_HEADS.register_module(name="standard")
class StandardRoIHeads(BoxRoIHeads):
    """Box head and optional mask head on pooled RoI features.

    Args:
        feature_specs: levels that RoIs are pooled from.
        num_classes: number of foreground classes.
        masks: predict masks.
        pool_size: output cells of box pooling per side.
        sampling_ratio, aligned: see RoIPooler.
        box_head_convs: output channels of 3x3 convolutions before the fully connected layers.
        box_head_fcs: number of fully connected layers. Default: one after convolutions, two without.
        box_head_dim: output features of the fully connected layers.
        norm: norm after the heads' convolutions ("batch", "group", ...); None for none.
        mask_pool_size: output cells of mask pooling per side; predicted masks have twice as many.
        mask_channels: output channels of the mask head's 3x3 convolutions.
        mask_dim: output channels of the mask predictor's transposed convolution.
        class_agnostic_boxes, class_agnostic_masks: predict one box or mask per RoI for all classes.
        options: thresholds and sampling, see BoxRoIHeads.

    Raises:
        InputError: the levels differ in their number of channels, or `mask_channels` is not usable.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        num_classes: int,
        *,
        masks: bool = False,
        pool_size: int = 7,
        sampling_ratio: int = 2,
        aligned: bool = True,
        box_head_convs: Sequence[int] = (),
        box_head_fcs: int | None = None,
        box_head_dim: int = 1024,
        norm: str | None = None,
        mask_pool_size: int = 14,
        mask_channels: Sequence[int] = (256, 256, 256, 256),
        mask_dim: int = 256,
        class_agnostic_boxes: bool = False,
        class_agnostic_masks: bool = False,
        **options: Any,
    ):
        channels = shared_channels(feature_specs)
        norm_layer = None if norm is None else norm_constructor(norm)
        box_head: nn.Module
        fcs = (1 if box_head_convs else 2) if box_head_fcs is None else box_head_fcs
        if fcs < 1:
            raise InputError(f"box_head_fcs must be at least 1, got {fcs}")
        if box_head_convs or fcs != 2:
            box_head = FastRCNNConvFCHead(
                (channels, pool_size, pool_size), list(box_head_convs), [box_head_dim] * fcs, norm_layer
            )
        else:
            box_head = TwoMLPHead(channels * pool_size**2, box_head_dim)
        super().__init__(
            RoIPooler(feature_specs, pool_size, sampling_ratio, aligned),
            box_head,
            Float32BoxPredictor(box_head_dim, num_classes + 1, class_agnostic_boxes),
            **options,
        )
        if not mask_channels or min(mask_channels) < 1:
            raise InputError(f"mask_channels must have one or more numbers of at least 1, got {tuple(mask_channels)}")
        if masks:
            self.mask_roi_pool = RoIPooler(feature_specs, mask_pool_size, sampling_ratio, aligned)
            self.mask_head = MaskRCNNHeads(channels, list(mask_channels), dilation=1, norm_layer=norm_layer)
            self.mask_predictor = Float32MaskPredictor(
                mask_channels[-1], mask_dim, num_classes + 1, class_agnostic_masks
            )

    def predict_boxes(
        self, features: dict[str, Tensor], rois: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        roi_features = self.box_head(self.box_roi_pool(features, rois, image_shapes))
        return roi_features, *self.box_predictor(roi_features)

    def predict_masks(
        self,
        features: dict[str, Tensor],
        rois: list[Tensor],
        image_shapes: list[tuple[int, int]],
        roi_features: Tensor | None = None,
    ) -> Tensor:
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, rois, image_shapes)))
