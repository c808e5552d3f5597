"""torchvision's RoI heads of Faster and Mask R-CNN, configured from the neck's FeatureSpecs.

A proposal is a box of the RPN, an RoI a proposal that is sampled or scored; logits and deltas are what a head predicts.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from ..errors import InputError
from ..layers.norm import norm_constructor
from ..registry import ROI_HEADS
from ..specs import FeatureSpec
from .base import Float32Outputs, shared_channels
from .roi_pooler import RoIPooler


class Float32BoxPredictor(Float32Outputs, FastRCNNPredictor):
    """torchvision's box predictor with float32 outputs."""


class Float32MaskPredictor(Float32Outputs, MaskRCNNPredictor):
    """torchvision's mask predictor with float32 outputs."""


class BoxRoIHeads(RoIHeads):
    """torchvision's RoIHeads with the defaults of Faster R-CNN.

    Args:
        box_roi_pool, box_head, box_predictor: see torchvision's RoIHeads.
        fg_iou_thresh, bg_iou_thresh: IoU with an object from which a proposal is foreground, below which background.
        batch_size_per_image, positive_fraction: RoIs sampled for the losses, and the share of foreground.
        score_thresh: detections with a lower score are dropped.
        nms_thresh: IoU above which NMS drops a detection.
        detections_per_img: detections kept per image.
    """

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
    ):
        super().__init__(
            box_roi_pool=box_roi_pool,
            box_head=box_head,
            box_predictor=box_predictor,
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            bbox_reg_weights=None,  # torchvision's default, (10, 10, 5, 5)
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
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
        box_head_convs: output channels of 3x3 convolutions before one fully connected layer; none: two fully connected
            layers.
        box_head_dim: output features of the fully connected layers.
        norm: norm after the heads' convolutions ("batch", "group", ...); None for none.
        mask_pool_size: output cells of mask pooling per side; predicted masks have twice as many.
        mask_channels: output channels of the mask head's 3x3 convolutions.
        mask_dim: output channels of the mask predictor's transposed convolution.
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
        box_head_dim: int = 1024,
        norm: str | None = None,
        mask_pool_size: int = 14,
        mask_channels: Sequence[int] = (256, 256, 256, 256),
        mask_dim: int = 256,
        **options: Any,
    ):
        channels = shared_channels(feature_specs)
        norm_layer = None if norm is None else norm_constructor(norm)
        box_head: nn.Module
        if box_head_convs:
            box_head = FastRCNNConvFCHead(
                (channels, pool_size, pool_size), list(box_head_convs), [box_head_dim], norm_layer
            )
        else:
            box_head = TwoMLPHead(channels * pool_size**2, box_head_dim)
        super().__init__(
            RoIPooler(feature_specs, pool_size, sampling_ratio, aligned),
            box_head,
            Float32BoxPredictor(box_head_dim, num_classes + 1),
            **options,
        )
        if not mask_channels or min(mask_channels) < 1:
            raise InputError(f"mask_channels must have one or more numbers of at least 1, got {tuple(mask_channels)}")
        if masks:
            self.mask_roi_pool = RoIPooler(feature_specs, mask_pool_size, sampling_ratio, aligned)
            self.mask_head = MaskRCNNHeads(channels, list(mask_channels), dilation=1, norm_layer=norm_layer)
            self.mask_predictor = Float32MaskPredictor(mask_channels[-1], mask_dim, num_classes + 1)
