"""Merge detections of one image that come from several views: scales and flips, models, or tiles.

Detections are a dict as of `Detector.predict(..., paste=False)`: "boxes" N x 4 xyxy, "scores" N, "labels" N and, if the
detector has them, "masks" N x 1 x M x M, probabilities on the boxes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

Found = dict[str, Tensor]
NMS_IOU = 0.5
FUSE_IOU = 0.6


def join(parts: Sequence[Found]) -> Found:
    """Return all detections one after another; masks get the largest of their resolutions."""
    joined = {key: torch.cat([part[key] for part in parts]) for key in ("boxes", "scores", "labels")}
    if "masks" in parts[0]:
        size = max(part["masks"].shape[-1] for part in parts)
        joined["masks"] = torch.cat([_resize(part["masks"], size) for part in parts])
    return joined


def select(found: Found, chosen: Tensor) -> Found:
    """Return the detections that an index or a bool per detection chooses."""
    return {key: values[chosen] for key, values in found.items()}


def suppress(found: Found, iou: float = NMS_IOU) -> Found:
    """Return the detections that NMS per class keeps, best first."""
    return select(found, batched_nms(found["boxes"], found["scores"], found["labels"], iou))


def clusters(found: Found, iou: float = NMS_IOU) -> tuple[Tensor, Tensor]:
    """Return what NMS per class keeps and suppresses.

    Returns:
        (indices of the K kept detections, best first; for each of the N detections the position, 0 to K - 1, of the
        kept one that suppresses it, for a kept one its own).
    """
    kept = batched_nms(found["boxes"], found["scores"], found["labels"], iou)
    if not len(kept):
        return kept, kept
    same_class = found["labels"][kept, None] == found["labels"]
    ious = torch.where(same_class, box_iou(found["boxes"][kept], found["boxes"]), -1)
    cluster = torch.where((ious > iou).any(0), (ious > iou).int().argmax(0), ious.argmax(0))  # the first is the best
    cluster[kept] = torch.arange(len(kept), device=kept.device)
    return kept, cluster


def fuse(views: Sequence[Found], iou: float = FUSE_IOU) -> Found:
    """Fuse the detections of views that each show the whole image (weighted boxes fusion, arXiv:1910.13302).

    Detections of one object are found as by NMS per class. Their mean, weighted by the scores, is its box. Its score is
    the mean over the views, 0 for a view that does not have it. Its mask is the mean of their probabilities on that
    box, weighted by the scores.

    Args:
        views: detections of each view, in pixels of the image.
        iou: above which two detections are of one object.

    Returns:
        The fused detections, best first.
    """
    if len(views) == 1:
        return views[0]
    found = join(views)
    kept, cluster = clusters(found, iou)
    scores = found["scores"]
    view = torch.cat([torch.full_like(part["labels"], number) for number, part in enumerate(views)])
    best = scores.new_zeros((len(kept), len(views)))
    best.view(-1).scatter_reduce_(0, cluster * len(views) + view, scores, "amax")
    total = scores.new_zeros(len(kept)).index_add_(0, cluster, scores)
    weights = scores / total[cluster].clamp(min=torch.finfo(scores.dtype).tiny)
    boxes = torch.zeros_like(found["boxes"][kept]).index_add_(0, cluster, found["boxes"] * weights[:, None])
    fused = {"boxes": boxes, "scores": best.mean(1), "labels": found["labels"][kept]}
    if "masks" in found:
        masks = resample_masks(found["masks"], found["boxes"], boxes[cluster]) * weights[:, None, None, None]
        fused["masks"] = torch.zeros_like(found["masks"][kept]).index_add_(0, cluster, masks)
    return select(fused, fused["scores"].argsort(descending=True, stable=True))


def resample_masks(masks: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """Resample masks on other boxes, bilinearly; 0 outside their own.

    Args:
        masks: N x 1 x M x M, each on its box.
        boxes: N x 4 xyxy.
        targets: N x 4 xyxy.

    Returns:
        N x 1 x M x M, each on its target.
    """
    if not len(masks):
        return masks
    sizes, target_sizes = ((corners[:, 2:] - corners[:, :2]).clamp(min=1e-6) for corners in (boxes, targets))
    centres, target_centres = ((corners[:, 2:] + corners[:, :2]) / 2 for corners in (boxes, targets))
    # in units of affine_grid the sides of a box are at -1 and 1
    transform = masks.new_zeros((len(masks), 2, 3))
    transform[:, [0, 1], [0, 1]] = target_sizes / sizes
    transform[:, :, 2] = 2 * (target_centres - centres) / sizes
    grid = F.affine_grid(transform, list(masks.shape), align_corners=False)
    return F.grid_sample(masks, grid, align_corners=False)


def _resize(masks: Tensor, size: int) -> Tensor:
    if masks.shape[-1] == size or not len(masks):
        return masks.new_zeros((len(masks), 1, size, size)) if not len(masks) else masks
    return F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)
