"""Non-maximum suppression of many groups of boxes at once, as one operator that exported programs can hold.

torchvision's `batched_nms` chooses its algorithm by the number of boxes, which depends on the data, so it cannot be
exported; and one of its two algorithms shifts boxes by group, which rounds their coordinates.
"""

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("detbackbones::grouped_nms", mutates_args=())
def grouped_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_per_group: int
) -> Tensor:
    """Suppress boxes that overlap a better one of their group. The arguments are those of ONNX's NonMaxSuppression.

    Args:
        boxes: B x K x 4 xyxy.
        scores: B x G x K: the score of every box in each of G groups.
        iou_threshold: IoU above which the box with the lower score is dropped.
        score_threshold: boxes with this score or a lower one do not take part.
        max_per_group: boxes kept per group.

    Returns:
        M x 3 int64: b, group and box of those that are kept, by b, then by group, then best first.
    """
    kept = [torch.empty((0, 3), dtype=torch.int64, device=boxes.device)]
    for index in range(len(boxes)):
        for group, group_scores in enumerate(scores[index]):
            candidates = torch.where(group_scores > score_threshold)[0]
            best = nms(boxes[index, candidates], group_scores[candidates], iou_threshold)[:max_per_group]
            place = torch.tensor([index, group], device=boxes.device).expand(len(best), 2)
            kept.append(torch.cat([place, candidates[best, None]], dim=1))
    return torch.cat(kept)


@grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_per_group: int) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)
