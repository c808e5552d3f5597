"""Simple copy-paste: objects of one image are pasted onto another (Ghiasi et al. 2020, arXiv:2012.07177)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers.mask_crops import MaskCrops


def draw_objects(masks: MaskCrops, random: np.random.Generator) -> list[int]:
    """Return the indices of a random subset of the masks that have a pixel.

    As in torchvision's reference code, as many indices as there are objects are drawn with replacement, so that a mean
    of 63 % of many objects are in the subset.
    """
    indices = np.flatnonzero((masks.boxes[:, 2] > masks.boxes[:, 0]).numpy())
    return np.unique(random.choice(indices, len(indices))).tolist() if len(indices) else []


def paste_objects(
    image: Tensor, target: dict[str, Any], other: Tensor, other_target: dict[str, Any], chosen: Sequence[int]
) -> tuple[Tensor, dict[str, Any]]:
    """Paste objects of another image at the place that they have there, without blending.

    An object below loses the pixels that are covered: its mask shrinks, its box becomes that of the remaining mask, and
    it is dropped if nothing remains. An object without a mask keeps its box. What would lie outside the image is cut
    off from pasted objects and their boxes.

    Args:
        image: C x H x W.
        target: "boxes", "labels" and "masks" (MaskCrops) of the image; other keys are kept.
        other, other_target: the image that objects are taken from, of any size.
        chosen: indices of these objects.

    Returns:
        A new image and target; the pasted objects come last.
    """
    masks, other_masks, size = target["masks"], other_target["masks"], target["masks"].size
    chosen = [index for index, mask in zip(chosen, _draw(other_masks, chosen, size), strict=True) if mask.any()]
    covered = np.zeros(size, bool, order="F")
    for mask in _draw(other_masks, chosen, size):
        covered |= mask
    kept, shrunk = [], []
    for index, mask in enumerate(_draw(masks, range(len(masks)), size)):
        visible, total = np.count_nonzero(mask & ~covered), np.count_nonzero(mask)
        if visible or not total:
            kept.append(index)
            shrunk.append(visible < total)
    below = (mask & ~covered for mask in _draw(masks, kept, size))
    result = MaskCrops.pack(chain(below, _draw(other_masks, chosen, size)), size)

    height, width = size
    is_shrunk = torch.tensor(shrunk, dtype=torch.bool)
    pasted_boxes = other_target["boxes"][chosen].minimum(torch.tensor([width, height, width, height]))
    own_boxes = torch.where(is_shrunk[:, None], result.boxes[: len(kept)].float(), target["boxes"][kept])
    image = image.clone()
    common = (..., slice(min(height, other.shape[-2])), slice(min(width, other.shape[-1])))
    image[common] = torch.where(torch.from_numpy(covered)[common], other[common], image[common])
    return image, target | {
        "boxes": torch.cat([own_boxes, pasted_boxes]),
        "labels": torch.cat([target["labels"][kept], other_target["labels"][chosen]]),
        "masks": result,
    }


def _draw(masks: MaskCrops, indices: Iterable[int], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield masks as H x W bool arrays of a size, one at a time; larger masks are cut off."""
    height, width = size
    for index in indices:
        canvas = np.zeros(size, bool, order="F")
        left, top, right, bottom = masks.boxes[index].tolist()
        crop = masks.crop(index).numpy()[: max(0, height - top), : max(0, width - left)]
        canvas[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        yield canvas
