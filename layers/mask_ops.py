"""Paste RoI masks into the image, and encode masks as COCO RLE."""

import hotcoco
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize each mask to its box and keep the pixels with a probability of at least 0.5.

    The result equals torchvision's `paste_masks_in_image` followed by `>= 0.5`, but needs one byte per pixel instead of
    two float images per mask.

    Args:
        probabilities: N x 1 x M x M in [0, 1].
        boxes: N x 4 xyxy in pixels; they may reach out of the image.
        size: height and width of the image.

    Returns:
        N x height x width bool.
    """
    height, width = size
    masks = boxes.new_zeros((len(boxes), height, width), dtype=torch.bool)
    if not len(boxes):
        return masks
    grids, scale = expand_masks(probabilities, padding=1)
    corners = expand_boxes(boxes, scale).to(torch.int64).tolist()
    for mask, grid, (x1, y1, x2, y2) in zip(masks, grids, corners, strict=True):
        box_size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        patch = F.interpolate(grid[None], size=box_size, mode="bilinear", align_corners=False)[0, 0]
        left, right = max(x1, 0), min(x2 + 1, width)
        top, bottom = max(y1, 0), min(y2 + 1, height)
        if left < right and top < bottom:
            mask[top:bottom, left:right] = patch[top - y1 : bottom - y1, left - x1 : right - x1] >= 0.5
    return masks


def sample_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample each mask at the centres of the pixels in its box, and keep those with a probability of at least 0.5.

    Box and mask are continuous, as in detectron2 and mmdetection: outside of the box a mask is zero, and between the
    centres of its cells bilinear.

    Args:
        probabilities, boxes, size: see `paste_masks`.

    Returns:
        N x height x width bool.
    """
    height, width = size
    masks = boxes.new_zeros((len(boxes), height, width), dtype=torch.bool)
    for mask, grid, box in zip(masks, probabilities, boxes, strict=True):
        left, top = (int(side) for side in (box[:2].floor() - 1).clamp(min=0).tolist())
        right, bottom = (min(int(side) + 1, limit) for side, limit in zip(box[2:].ceil().tolist(), (width, height)))
        if left >= right or top >= bottom:
            continue
        x = (torch.arange(left, right, device=box.device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(top, bottom, device=box.device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        patch = F.grid_sample(grid[None], points[None].to(grid.dtype), align_corners=False)[0, 0]
        mask[top:bottom, left:right] = patch >= 0.5
    return masks


PASTES = {"torchvision": paste_masks, "detectron2": sample_masks}


def encode_masks(masks: Tensor) -> list[dict]:
    """Encode masks as COCO's compressed RLE, with text counts that JSON can hold.

    Args:
        masks: N x H x W bool or uint8.

    Returns:
        Per mask {"size": [H, W], "counts": text}, equal to `pycocotools.mask.encode`.
    """
    # hotcoco reads any strides; pycocotools needs a copy in Fortran order. 100 masks of 480 x 640: 18 ms against 30 ms,
    # of 800 x 1333: 55 ms against 174 ms.
    encoded = hotcoco.mask.encode(masks.permute(1, 2, 0).cpu().numpy())
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in encoded]
