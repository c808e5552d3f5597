"""Predicted masks from their RoI's grid onto the image."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """N x height x width bool: where the mask of each box is at least 0.5.

    The same pixels as torchvision's `paste_masks_in_image` and a cut at 0.5, without its float images of the full size,
    two of them for every mask at once.

    Args:
        probabilities: N x 1 x M x M in [0, 1].
        boxes: N x 4 xyxy in pixels.
        size: height and width of the image.
    """
    height, width = size
    pasted = boxes.new_zeros((len(boxes), height, width), dtype=torch.bool)
    if not len(boxes):
        return pasted
    grids, scale = expand_masks(probabilities, padding=1)
    corners = expand_boxes(boxes, scale).to(torch.int64).tolist()
    for whole, grid, (x1, y1, x2, y2) in zip(pasted, grids, corners):
        inside = F.interpolate(grid[None], size=(max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)), mode="bilinear", align_corners=False)
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
        if left < right and top < bottom:
            whole[top:bottom, left:right] = inside[0, 0, top - y1 : bottom - y1, left - x1 : right - x1] >= 0.5
    return pasted
