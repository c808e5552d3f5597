"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): one-stage detector with focal loss, on a pyramid or a single level.

The heads, their losses and the selection of detections are torchvision's; geometry comes from `anchors.py` and boxes
stay float32. Labels are the same inside and outside the heads, because RetinaNet does not have a background class.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from ..backbones.base import Backbone
from ..errors import check_known
from ..layers.norm import norm_constructor
from ..layers.winograd_conv import convert_to_winograd_
from ..necks.base import Neck
from ..registry import DETECTORS, Config, build_neck
from .anchors import AnchorGenerator, default_sizes
from .base import Detector, Float32Outputs, shared_channels
from .boxes import box_coder
from .class_weights import class_weight_tensor
from .dense_detections import select_detections

SINGLE_LEVELS = (3, 4, 5, 6, 7)  # P3 to P7, whose anchor sizes a single level carries
BOX_LOSSES = ("l1", "smooth_l1", "giou", "diou", "ciou")


class Float32RetinaNetHead(Float32Outputs, RetinaNetHead):
    """torchvision's RetinaNet head with float32 outputs, and a weight per class in the classification loss."""

    class_weights: Tensor | None

    def __init__(self, *args: Any, class_weights: Tensor | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def compute_loss(
        self,
        targets: list[dict[str, Any]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        if self.class_weights is not None:
            excess = [
                focal_loss_excess(logits, target["labels"], matches, self.class_weights.to(logits.dtype))
                for logits, target, matches in zip(head_outputs["cls_logits"], targets, matched_idxs)
            ]
            losses["classification"] = losses["classification"] + torch.stack(excess).mean()
        return losses


def focal_loss_excess(logits: Tensor, labels: Tensor, matches: Tensor, class_weights: Tensor) -> Tensor:
    """Return what the weights add to torchvision's classification loss of one image.

    Args:
        logits: A x classes, of all anchors.
        labels: N, of the objects.
        matches: A, the object of each anchor; negative for background and ignored anchors.
        class_weights: classes.
    """
    foreground = matches >= 0
    anchor_labels = labels[matches[foreground]]
    one_hot = F.one_hot(anchor_labels, len(class_weights)).to(logits.dtype)
    losses = sigmoid_focal_loss(logits[foreground], one_hot).sum(1)
    return ((class_weights[anchor_labels] - 1) * losses).sum() / max(1, len(anchor_labels))


@DETECTORS.register_module(name="retinanet")
class RetinaNet(Detector):
    """One-stage detector; see `Detector` for inputs and outputs.

    The paper's pyramid is P3 to P7: `out_features=("c3", "c4", "c5")` in the backbone, `extra_levels="conv_on_input"`
    in the neck.

    Args:
        backbone: config, or a built backbone.
        neck: config, or a built neck.
        num_classes: number of foreground classes.
        load_weights: False builds the backbone for its weights without reading them, because a checkpoint follows.
        size_divisor: see `Detector`.
        anchor_sizes: pixels, one sequence per level. Default: `anchor_scale * 2**level` in `anchor_octaves` steps; a
            single level carries those of the levels 3 to 7.
        anchor_scale: 4 gives 32 px on P3 ... 512 px on P7 (the paper).
        anchor_octaves: sizes per octave on every level.
        aspect_ratios, round_anchors: see AnchorGenerator.
        anchor_offset: `offset` of AnchorGenerator.
        bbox_reg_weights: factors on the deltas (dx, dy, dw, dh) that the head predicts.
        clip_before_nms: cut boxes at the border of the image before NMS compares them; False cuts the detections after
            it, as detectron2 does.
        head_norm: norm after the heads' convolutions; None for none (the paper).
        box_loss: "l1", "smooth_l1", "giou", "diou" or "ciou".
        class_weights: weight of each class in the classification loss, in the order of the labels: the focal loss of an
            anchor, summed over the classes, is multiplied by the weight of its object's class. Background anchors weigh
            1, and the number of foreground anchors stays the divisor. None for equal weights.
        fg_iou_thresh, bg_iou_thresh, score_thresh, nms_thresh, detections_per_img, topk_candidates: as in torchvision's
            RetinaNet.

    Raises:
        InputError: parts disagree, a name is unknown, or `class_weights` is not one positive number per class.
    """

    def __init__(
        self,
        backbone: Config | Backbone,
        neck: Config | Neck = "fpn",
        num_classes: int = 80,
        *,
        load_weights: bool = True,
        size_divisor: int | None = None,
        anchor_sizes: Sequence[Sequence[float]] | None = None,
        anchor_scale: float = 4.0,
        anchor_octaves: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
        anchor_offset: float = 0.0,
        bbox_reg_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        clip_before_nms: bool = True,
        head_norm: str | None = None,
        box_loss: str = "l1",
        class_weights: Sequence[float] | None = None,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ):
        super().__init__(backbone, num_classes, load_weights, size_divisor)
        check_known("box_loss", BOX_LOSSES, box_loss)
        norm_layer = None if head_norm is None else norm_constructor(head_norm)
        self.neck = build_neck(neck, self.backbone.feature_specs)
        specs = self.neck.feature_specs
        if anchor_sizes is None:
            anchor_sizes = default_sizes(specs, anchor_scale, SINGLE_LEVELS, anchor_octaves)
        self.anchor_generator = AnchorGenerator(specs, anchor_sizes, aspect_ratios, round_anchors, anchor_offset)
        anchors_per_cell = self.anchor_generator.num_anchors_per_location()[0]
        weights = None if class_weights is None else class_weight_tensor(class_weights, num_classes)
        self.head = Float32RetinaNetHead(
            shared_channels(specs), anchors_per_cell, num_classes, norm_layer, class_weights=weights
        )
        # private attribute; torchvision's own builder of the GIoU form sets it too
        self.head.regression_head._loss_type = box_loss  # type: ignore[union-attr]
        self.proposal_matcher = Matcher(fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches=True)
        self.box_coder = box_coder(bbox_reg_weights)
        self.clip_before_nms = clip_before_nms
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        convert_to_winograd_(nn.ModuleList([self.neck, self.head]))  # the backbone may be the caller's own

    # torchvision's own functions; they use only the attributes set above
    compute_loss = TorchvisionRetinaNet.compute_loss
    postprocess_detections = TorchvisionRetinaNet.postprocess_detections

    def head_losses(
        self, features: dict[str, Tensor], images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        maps = list(features.values())
        return self.compute_loss(targets, self.head(maps), self.anchor_generator(images, maps))

    def head_detections(self, features: dict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        maps = list(features.values())
        counts = self.anchor_generator.anchors_per_level(maps)
        outputs = {name: list(output.split(counts, dim=1)) for name, output in self.head(maps).items()}
        anchors = [list(image_anchors.split(counts)) for image_anchors in self.anchor_generator(images, maps)]
        if self.clip_before_nms:
            return self.postprocess_detections(outputs, anchors, images.image_sizes)
        return [
            select_detections(
                [logits[index] for logits in outputs["cls_logits"]],
                [deltas[index] for deltas in outputs["bbox_regression"]],
                anchors[index],
                size,
                self.box_coder,
                score_thresh=self.score_thresh,
                nms_thresh=self.nms_thresh,
                topk_candidates=self.topk_candidates,
                detections_per_img=self.detections_per_img,
            )
            for index, size in enumerate(images.image_sizes)
        ]
