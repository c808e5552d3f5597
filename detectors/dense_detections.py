"""Select the detections of a one-stage detector, with boxes that reach over the border until NMS has compared them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, clip_boxes_to_image


def select_detections(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: tuple[int, int],
    coder: BoxCoder,
    *,
    score_thresh: float,
    nms_thresh: float,
    topk_candidates: int,
    detections_per_img: int,
) -> dict[str, Tensor]:
    """Return the detections of one image as detectron2 selects them.

    Args:
        logits: per level A x classes.
        deltas, anchors: per level A x 4.
        size: height and width of the image.
        coder: decodes the deltas.
        score_thresh, nms_thresh, topk_candidates, detections_per_img: see RetinaNet; candidates are counted per level.

    Returns:
        "boxes" N x 4 inside the image, "scores" and "labels", best first.
    """
    boxes, scores, labels = [], [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors):
        level_scores = level_logits.sigmoid()
        places = (level_scores > score_thresh).nonzero()  # anchor, class
        best, order = level_scores[places.unbind(1)].topk(min(topk_candidates, len(places)))
        anchor, label = places[order].unbind(1)
        boxes.append(coder.decode_single(level_deltas[anchor], level_anchors[anchor]))
        scores.append(best)
        labels.append(label)
    found = {"boxes": torch.cat(boxes), "scores": torch.cat(scores), "labels": torch.cat(labels)}
    keep = batched_nms(found["boxes"], found["scores"], found["labels"], nms_thresh)[:detections_per_img]
    found = {name: values[keep] for name, values in found.items()}
    found["boxes"] = clip_boxes_to_image(found["boxes"], size)
    inside = (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
    return {name: values[inside] for name, values in found.items()}
