"""Inference of detectors as one graph for any number of images of any size, equal to `Detector.predict` up to rounding.

torchvision's heads loop over the images of a batch and branch on numbers of boxes; a graph cannot do either. Here every
step works on all images together: candidates are padded to fixed numbers, and boxes carry the index of their image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..layers.nms import grouped_nms
from ..layers.roi_align import exportable_roi_align
from .base import Detector
from .rcnn import FasterRCNN
from .retinanet import RetinaNet
from .roi_heads import StandardRoIHeads
from .roi_pooler import RoIPooler
from .rpn import RPN
from .stage_roi_heads import StageRoIHeads

KNOWN_PARTS = (RPN, StandardRoIHeads, StageRoIHeads)
REPLACED_METHODS = ("forward", "filter_proposals", "postprocess_detections", "head_detections", "predict")
DROPPED = -1.0  # score of candidates that do not take part, below all probabilities


class ExportForm(nn.Module):
    """Base class: normalise the batch, and collect the best detections of every image.

    Args:
        detector: fused for inference; its modules are shared, and some of them are changed for export.
    """

    def __init__(self, detector: Any):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: N x C x H x W uint8, padded at the right and the bottom. The values of the padding do not matter.
            sizes: N x 2 int64, height and width of every image without its padding.

        Returns:
            For the D detections of all images, image by image, best first: boxes D x 4 float32 xyxy in pixels, scores D
            float32, labels D int64 from 0, index of the image D int64 and, if the detector has masks, their
            probabilities D x M x M float32.
        """
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]
        batch = self.detector.backbone.preprocess(images) * inside
        return self.detect(self.detector.neck(self.detector.backbone(batch)), sizes)

    def detect(self, features: dict[str, Tensor], sizes: Tensor) -> tuple[Tensor, ...]:
        """Return the detections as `forward` does."""
        raise NotImplementedError


def flatten_cells(output: Tensor, values: int) -> Tensor:
    """Reorder the output of a head, N x (A values) x H x W, as N x (H W A) x values."""
    n, _, height, width = output.shape
    return output.view(n, -1, values, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, values)


def padded_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best of N x K scores and their indices; if K < k, -inf and the index 0 fill up."""
    best, index = F.pad(scores, (0, k), value=-torch.inf).topk(k, dim=1)
    return best, torch.where(best > -torch.inf, index, 0)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index`, N x k, of N x K x D values."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def decode(box_coder: Any, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Apply deltas ... x 4 to boxes."""
    return box_coder.decode_single(deltas.reshape(-1, 4), boxes.expand_as(deltas).reshape(-1, 4)).view(deltas.shape)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Cut boxes ... x 4 at the border of their image; `sizes` are height and width, broadcastable to ... x 2."""
    limit = sizes.to(boxes.dtype).flip(-1).expand(*boxes.shape[:-1], 2)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limit, limit], dim=-1))


def is_large(boxes: Tensor, min_size: float) -> Tensor:
    """Return whether both sides of boxes ... x 4 have at least `min_size` pixels."""
    return (boxes[..., 2:] - boxes[..., :2] >= min_size).all(dim=-1)


def best_per_image(scores: Tensor, image_index: Tensor, num_images: Any, count: int) -> tuple[Tensor, Tensor]:
    """Select the best `count` of M scored things of each image.

    Returns:
        (index of the image, index into the M things) of those that are selected, by image, best first.
    """
    is_own = image_index == torch.arange(num_images, device=scores.device)[:, None]
    best, index = padded_topk(torch.where(is_own, scores, -torch.inf), count)
    image, rank = torch.where(best > -torch.inf)
    return image, index[image, rank]


def selects_as(part: nn.Module, known: Sequence[type[nn.Module]]) -> bool:
    """Return whether a module is of a known class, or of a subclass with the methods that an export form replaces."""
    return any(
        isinstance(part, cls)
        and all(getattr(type(part), name, None) is getattr(cls, name, None) for name in REPLACED_METHODS)
        for cls in known
    )


class ExportableRoIPooler(RoIPooler):
    """A RoIPooler of RoIs K x 5 with the index of their image, in place of boxes per image."""

    roi_align = staticmethod(exportable_roi_align)

    def forward(self, x: dict[str, Tensor], boxes: Any, image_shapes: Any) -> Tensor:
        return self.pool([x[name] for name in self.featmap_names], boxes)


class RCNNExportForm(ExportForm):
    """Faster and Mask R-CNN in all their forms.

    Raises:
        InputError: the proposal generator or the RoI heads are not the package's.
    """

    def __init__(self, detector: FasterRCNN):
        super().__init__(detector)
        self.rpn: Any = detector.rpn
        self.heads: Any = detector.roi_heads
        for part in (detector.rpn, detector.roi_heads):
            if not selects_as(part, KNOWN_PARTS):
                known = ", ".join(known.__name__ for known in KNOWN_PARTS)
                raise InputError(f"{type(part).__name__} cannot be exported (known: {known}); export part=neck instead")
        self.rpn.eval()
        for module in self.heads.modules():
            if isinstance(module, RoIPooler):
                module.__class__ = ExportableRoIPooler

    def detect(self, features: dict[str, Tensor], sizes: Tensor) -> tuple[Tensor, ...]:
        rois = self.propose(list(features.values()), sizes)
        image_index = rois[:, 0].long()
        _, logits, deltas = self.heads.predict_boxes(features, rois, ())
        deltas = deltas.view(rois.shape[0], -1, 4)[:, 1:]  # class 0 is the background
        boxes = clip(decode(self.heads.box_coder, deltas, rois[:, None, 1:]), sizes[image_index][:, None])
        probabilities = torch.where(is_large(boxes, 1e-2), logits.softmax(-1)[:, 1:], DROPPED)
        # one group per image: classes x images x RoIs
        is_own = image_index == torch.arange(sizes.shape[0], device=rois.device)[:, None]
        scores = torch.where(is_own, probabilities.t()[:, None], DROPPED)
        limit = self.heads.detections_per_img
        kept = grouped_nms(boxes.transpose(0, 1), scores, self.heads.nms_thresh, self.heads.score_thresh, limit)
        label, _, roi = kept.unbind(1)
        image, index = best_per_image(probabilities[roi, label], image_index[roi], sizes.shape[0], limit)
        label, roi = label[index], roi[index]
        boxes = boxes[roi, label]
        detections = boxes, probabilities[roi, label], label, image
        if not self.heads.has_mask():
            return detections
        rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
        masks = self.heads.predict_masks(features, rois, ())
        return *detections, masks[torch.arange(label.shape[0], device=label.device), label + 1].sigmoid()

    def propose(self, maps: Sequence[Tensor], sizes: Tensor) -> Tensor:
        """Return the proposals of all images: K x 5, index of the image and box."""
        k, n = self.rpn.pre_nms_top_n(), sizes.shape[0]
        boxes, scores = [], []
        outputs = zip(*self.rpn.head(list(maps)), self.rpn.anchor_generator.level_anchors(maps))
        for logits, deltas, anchors in outputs:
            best, index = padded_topk(flatten_cells(logits, 1).flatten(1), k)
            deltas = gather_rows(flatten_cells(deltas, 4), index)
            decoded = clip(decode(self.rpn.box_coder, deltas, anchors[index]), sizes[:, None])
            keep = is_large(decoded, self.rpn.min_size) & (best > -torch.inf)
            boxes.append(decoded)
            scores.append(torch.where(keep, best.sigmoid(), DROPPED))
        all_boxes = torch.cat(boxes, dim=1)
        all_scores = torch.cat(scores, dim=1)
        count = self.rpn.post_nms_top_n()
        # one problem per image and level: N x levels of k boxes
        kept = grouped_nms(all_boxes.view(-1, k, 4), all_scores.view(-1, 1, k), self.rpn.nms_thresh, DROPPED / 2, count)
        candidate = kept[:, 0] * k + kept[:, 2]
        image, index = best_per_image(all_scores.flatten()[candidate], kept[:, 0] // len(maps), n, count)
        selected = all_boxes.view(-1, 4)[candidate[index]]
        return torch.cat([image[:, None].to(selected.dtype), selected], dim=1)


class RetinaNetExportForm(ExportForm):
    """RetinaNet on a pyramid or a single level."""

    def detect(self, features: dict[str, Tensor], sizes: Tensor) -> tuple[Tensor, ...]:
        model, k, classes = self.detector, self.detector.topk_candidates, self.detector.num_classes
        maps = list(features.values())
        boxes, scores, labels = [], [], []
        for level, anchors in zip(maps, model.anchor_generator.level_anchors(maps)):
            outputs = model.head([level])
            logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
            # the best pairs of anchor and class are among the anchors with the best class
            best, anchor = padded_topk(logits.amax(dim=2), k)
            pairs = torch.where(best[..., None] > -torch.inf, gather_rows(logits, anchor), -torch.inf)
            best, pair = padded_topk(pairs.flatten(1), k)
            anchor = anchor.gather(1, pair // classes)
            decoded = decode(model.box_coder, gather_rows(deltas, anchor), anchors[anchor])
            boxes.append(clip(decoded, sizes[:, None]) if model.clip_before_nms else decoded)
            scores.append(best.sigmoid())
            labels.append(pair % classes)
        all_boxes, all_scores, all_labels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(labels, 1)
        is_own = all_labels[:, None] == torch.arange(classes, device=sizes.device)[:, None]
        group_scores = torch.where(is_own, all_scores[:, None], DROPPED)
        limit = model.detections_per_img
        kept = grouped_nms(all_boxes, group_scores, model.nms_thresh, model.score_thresh, limit)
        image, label, candidate = kept.unbind(1)
        order_image, index = best_per_image(all_scores[image, candidate], image, sizes.shape[0], limit)
        label, candidate = label[index], candidate[index]
        selected = clip(all_boxes[order_image, candidate], sizes[order_image])
        found = selected, all_scores[order_image, candidate], label, order_image
        if model.clip_before_nms:
            return found
        inside = (selected[:, 2:] > selected[:, :2]).all(dim=1)
        return tuple(values[inside] for values in found)


EXPORT_FORMS: dict[type[Detector], type[ExportForm]] = {FasterRCNN: RCNNExportForm, RetinaNet: RetinaNetExportForm}


def export_form(detector: Detector) -> ExportForm:
    """Return the export form of a detector that was fused for inference without Winograd's form.

    Raises:
        InputError: this class or one of its parts cannot be exported.
    """
    for detector_class, form in EXPORT_FORMS.items():
        if selects_as(detector, [detector_class]):
            return form(detector)
    names = ", ".join(known.__name__ for known in EXPORT_FORMS)
    raise InputError(f"{type(detector).__name__} cannot be exported (known: {names}); export part=neck instead")
