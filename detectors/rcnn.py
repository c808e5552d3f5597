"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) and Mask R-CNN (He et al. 2017, arXiv:1703.06870).

The RPN and the RoI heads are torchvision's; what is ours is where they get geometry from (`anchors.py`, `pooler.py`)
and that boxes stay float32. Words: proposals are the RPN's boxes, RoIs those sampled from them; logits and deltas are
what a head predicts; a label is a class index 0 .. num_classes - 1 outside and 1 .. num_classes inside the RoI heads,
where torchvision keeps 0 for the background.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from ..registry import BACKBONES, DETECTORS, InputError, accepted_arguments, build_backbone, build_neck, lookup
from .anchors import DeclaredAnchorGenerator
from .pooler import DeclaredRoIPooler

PASTE_CHUNK = 32  # masks pasted at once: bounds the float image-sized masks that are alive


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


def resolve_backbone(cfg: str | Mapping) -> dict:
    """The backbone config with `norm` and `freeze` written out, where not given, as a detector means them.

    With weights: norm frozen, stem and c2 fixed. Without: live batch norm, nothing fixed.
    """
    cfg = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    accepted = accepted_arguments(lookup(BACKBONES, cfg.get("type", "")))
    started = cfg.get("weights") is not None
    for name, value in (("norm", "frozen" if started else "batch"), ("freeze", 2 if started else 0)):
        if accepted is None or name in accepted:
            cfg[name] = value if cfg.get(name) is None else cfg[name]
    return cfg


@DETECTORS.register_module(name="faster_rcnn")
class FasterRCNN(nn.Module):
    """Two-stage detector on a feature pyramid.

    Call it with a list of RGB images, C x H x W, uint8 or float in [0, 1], of any sizes. In training mode it wants
    targets and returns a dict of losses; in evaluation mode it returns for every image "boxes" (N x 4 float32 xyxy in
    pixels of the given image), "scores" (N) and "labels" (N, 0 .. num_classes - 1), best first. Targets have "boxes"
    and "labels" of the same form.

    Args:
        backbone, neck: configs (a name or a dict with `type`).
        num_classes: foreground classes.
        load_weights: False builds the backbone for its weights without reading them: a checkpoint follows.
        anchor_scale, aspect_ratios, round_anchors: see DeclaredAnchorGenerator.
        rpn_*, box_*: as in torchvision's FasterRCNN; pairs are (training, evaluation).
        box_head_dim: width of the two fully connected layers.
        roi_sampling_ratio, roi_aligned: see DeclaredRoIPooler.
    """

    def __init__(
        self,
        backbone: str | Mapping,
        neck: str | Mapping = "fpn",
        num_classes: int = 80,
        *,
        load_weights: bool = True,
        anchor_scale: float = 8.0,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
        rpn_pre_nms_top_n: Sequence[int] = (2000, 1000),
        rpn_post_nms_top_n: Sequence[int] = (1000, 1000),
        rpn_nms_thresh: float = 0.7,
        rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3,
        rpn_batch_size_per_image: int = 256,
        rpn_positive_fraction: float = 0.5,
        box_head_dim: int = 1024,
        box_pool_size: int = 7,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25,
        roi_sampling_ratio: int = 2,
        roi_aligned: bool = True,
    ):
        super().__init__()
        extra = {} if load_weights else {"load_weights": False}
        self.backbone = build_backbone(resolve_backbone(backbone), **extra)
        self.neck = build_neck(neck, self.backbone.feature_specs)
        specs = self.neck.feature_specs
        widths = {spec.channels for spec in specs}
        if len(widths) > 1:
            raise InputError(f"the heads share weights over levels, so the neck's levels need one width, not {sorted(widths)}")
        channels = widths.pop()

        anchors = DeclaredAnchorGenerator(specs, anchor_scale, aspect_ratios, round_anchors)
        self.rpn = RegionProposalNetwork(
            anchors, Float32RPNHead(channels, anchors.num_anchors_per_location()[0]),
            rpn_fg_iou_thresh, rpn_bg_iou_thresh, rpn_batch_size_per_image, rpn_positive_fraction,
            dict(zip(("training", "testing"), rpn_pre_nms_top_n)), dict(zip(("training", "testing"), rpn_post_nms_top_n)),
            rpn_nms_thresh,
        )  # fmt: skip

        # RoIs come from the backbone's own levels; what the neck adds on top (P6) is for the RPN alone (FPN paper, 4.2)
        deepest = max(spec.level for spec in self.backbone.feature_specs)
        self.roi_specs = tuple(spec for spec in specs if spec.level <= deepest)
        self.roi_options = {"sampling_ratio": roi_sampling_ratio, "aligned": roi_aligned}
        self.roi_heads = RoIHeads(
            DeclaredRoIPooler(self.roi_specs, box_pool_size, **self.roi_options),
            TwoMLPHead(channels * box_pool_size**2, box_head_dim), Float32BoxPredictor(box_head_dim, num_classes + 1),
            box_fg_iou_thresh, box_bg_iou_thresh, box_batch_size_per_image, box_positive_fraction,
            None, box_score_thresh, box_nms_thresh, box_detections_per_img,
        )  # fmt: skip

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """`output_sizes` (height, width), one an image: map results to another size, such as the image's before resizing."""
        if self.training and targets is None:
            raise ValueError("training needs targets")
        batch, sizes = self._batch(images)
        features = self.neck(self.backbone(batch))
        image_list = ImageList(batch, sizes)
        inner = None
        if targets is not None:
            inner = [dict(target, boxes=target["boxes"].float(), labels=target["labels"] + 1) for target in targets]
        proposals, rpn_losses = self.rpn(image_list, features, inner)
        detections, roi_losses = self.roi_heads(features, proposals, sizes, inner)
        if self.training:
            return {**rpn_losses, **roi_losses}
        return [_finish(d, size, out) for d, size, out in zip(detections, sizes, output_sizes or sizes)]

    def _batch(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalise each image, pad with zeros at the right and the bottom to the largest, rounded up to size_divisor."""
        for image in images:
            if image.dim() != 3:
                raise ValueError(f"an image is C x H x W, got a tensor of shape {tuple(image.shape)}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        divisor = self.backbone.size_divisor
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes))
        batch = torch.stack([F.pad(self.backbone.preprocess(image), (0, width - w, 0, height - h))
                             for image, (h, w) in zip(images, sizes)])  # fmt: skip
        return batch.contiguous(memory_format=torch.channels_last), sizes


@DETECTORS.register_module(name="mask_rcnn")
class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for every box: targets and detections have "masks" too, N x H x W bool.

    Args:
        mask_pool_size: RoI cells a side; the predicted mask has twice as many.
        mask_channels: widths of the 3x3 convolutions.
        mask_dim: width of the transposed convolution.
        Others as FasterRCNN.
    """

    def __init__(
        self,
        *args,
        mask_pool_size: int = 14,
        mask_channels: Sequence[int] = (256, 256, 256, 256),
        mask_dim: int = 256,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        num_classes = self.roi_heads.box_predictor.cls_score.out_features
        self.roi_heads.mask_roi_pool = DeclaredRoIPooler(self.roi_specs, mask_pool_size, **self.roi_options)
        self.roi_heads.mask_head = MaskRCNNHeads(self.roi_specs[0].channels, list(mask_channels), 1)
        self.roi_heads.mask_predictor = Float32MaskPredictor(mask_channels[-1], mask_dim, num_classes)


def _finish(detections: dict[str, Tensor], size: tuple[int, int], out: tuple[int, int]) -> dict[str, Tensor]:
    """From the padded batch to the image asked for: labels from 0, boxes scaled, masks pasted and thresholded at 0.5."""
    boxes = detections["boxes"]
    if tuple(out) != tuple(size):
        boxes = boxes * boxes.new_tensor([out[1] / size[1], out[0] / size[0]] * 2)
    result = {"boxes": boxes, "scores": detections["scores"], "labels": detections["labels"] - 1}
    if "masks" in detections:
        pasted = [paste_masks_in_image(m, b, out)[:, 0] >= 0.5
                  for m, b in zip(detections["masks"].split(PASTE_CHUNK), boxes.split(PASTE_CHUNK)) if len(b)]  # fmt: skip
        result["masks"] = torch.cat(pasted) if pasted else boxes.new_zeros((0, *out), dtype=torch.bool)
    return result
