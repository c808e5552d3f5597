"""Instance masks in training: cropped to their objects and packed to bits, until RoIs are sampled from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


@dataclass(frozen=True)
class MaskCrops:
    """The masks of one image. A dense bool tensor of 500 masks of 800 x 1333 has 533 MB; this has 67 MB at most.

    Attributes:
        bits: uint8, the crops one after another, row by row, 8 pixels per byte (numpy.packbits).
        boxes: N x 4 int64 xyxy on the CPU, the pixels of each crop; x2 and y2 are exclusive. Without a pixel: zeros.
        size: height and width of the image.
    """

    bits: Tensor
    boxes: Tensor
    size: tuple[int, int]

    @classmethod
    def pack(cls, masks: Iterable[np.ndarray], size: tuple[int, int]) -> "MaskCrops":
        """Crop and pack H x W masks, one at a time."""
        bits, boxes = [np.zeros(0, np.uint8)], []
        for mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
            left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 0)
            boxes.append([left, top, right, bottom])
            bits.append(np.packbits(mask[top:bottom, left:right]))
        packed = torch.from_numpy(np.concatenate(bits))
        return cls(packed, torch.tensor(np.array(boxes, np.int64).reshape(-1, 4)), size)

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MaskCrops":
        """Return the masks with their bits on another device."""
        return replace(self, bits=self.bits.to(device, non_blocking=non_blocking))

    def crop(self, index: int) -> Tensor:
        """Return the pixels of one mask inside its box: h x w bool, on the device of the bits."""
        left, top, right, bottom = self.boxes.T
        lengths = ((right - left) * (bottom - top) + 7) // 8  # bytes
        start, length = int(lengths[:index].sum()), int(lengths[index])
        height, width = int(bottom[index] - top[index]), int(right[index] - left[index])
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=self.bits.device)
        pixels = (self.bits[start : start + length, None] >> shifts) & 1  # bytes x 8 bits
        return pixels.flatten()[: height * width].view(height, width).bool()

    def dense(self) -> Tensor:
        """Return N x H x W bool."""
        masks = torch.zeros((len(self), *self.size), dtype=torch.bool, device=self.bits.device)
        for index, (left, top, right, bottom) in enumerate(self.boxes.tolist()):
            masks[index, top:bottom, left:right] = self.crop(index)
        return masks


def project_masks(masks: MaskCrops | Tensor, boxes: Tensor, indices: Tensor, resolution: int) -> Tensor:
    """Resample the mask of each RoI's object inside the RoI, as torchvision's `project_masks_on_boxes`.

    RoIAlign runs once per object on its crop, instead of on a float copy of all dense masks.

    Args:
        masks: the masks of an image, N x H x W if dense.
        boxes: K x 4 xyxy in pixels, inside of the image.
        indices: K int64, the mask of each box.
        resolution: cells of the result per side.

    Returns:
        K x resolution x resolution float32 in [0, 1].
    """
    targets = boxes.new_zeros((len(boxes), resolution, resolution))
    for index in indices.unique().tolist():
        chosen = indices == index
        pixels, offset = _padded_crop(masks, index) if isinstance(masks, MaskCrops) else (masks[index], (0, 0))
        if pixels.numel():
            rois = boxes[chosen] - boxes.new_tensor(offset * 2)
            targets[chosen] = roi_align(pixels[None, None].to(boxes.dtype), [rois], resolution)[:, 0]
    return targets


def _padded_crop(masks: MaskCrops, index: int) -> tuple[Tensor, tuple[int, int]]:
    """Return a crop with its offset (x, y), padded by a pixel of zeros where it does not end at the image's border.

    RoIAlign repeats the outermost pixels of its input: zeros inside of the image, and the mask itself at the border.
    """
    height, width = masks.size
    left, top, right, bottom = masks.boxes[index].tolist()
    padding = (int(left > 0), int(right < width), int(top > 0), int(bottom < height))
    return F.pad(masks.crop(index), padding), (left - padding[0], top - padding[2])
