"""Instance masks in training: cropped to their objects and packed to bits, until RoIs are sampled from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align


@dataclass(frozen=True, eq=False)
class MaskCrops:
    """The masks of one image. A dense bool tensor of 500 masks of 800 x 1333 has 533 MB; this has 67 MB at most.

    Attributes:
        bits: uint8, the crops one after another, 8 pixels per byte (numpy.packbits), column by column as in COCO's RLE.
        boxes: N x 4 int64 xyxy on the CPU, the pixels of each crop; x2 and y2 are exclusive. Without a pixel: zeros.
        size: height and width of the image.
    """

    bits: Tensor
    boxes: Tensor
    size: tuple[int, int]

    @classmethod
    def pack(cls, masks: Iterable[np.ndarray], size: tuple[int, int]) -> "MaskCrops":
        """Crop and pack height x width masks, one at a time; fastest in Fortran order, in which pycocotools draws."""
        bits, boxes = bytearray(), []
        for mask in masks:
            columns = np.flatnonzero(mask.any(0))
            left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 0)
            rows = np.flatnonzero(mask[:, left:right].any(1))
            top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
            boxes.append([left, top, right, bottom])
            bits += np.packbits(mask[top:bottom, left:right].T).tobytes()
        packed = torch.frombuffer(bits, dtype=torch.uint8) if bits else torch.empty(0, dtype=torch.uint8, device="cpu")
        return cls(packed, torch.from_numpy(np.array(boxes, np.int64).reshape(-1, 4)), size)

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MaskCrops":
        """Return the masks with their bits on another device."""
        return replace(self, bits=self.bits.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "MaskCrops":
        """Return the masks with their bits in pinned memory, as a DataLoader asks for."""
        return replace(self, bits=self.bits.pin_memory())

    def crop(self, index: int) -> Tensor:
        """Return the pixels of one mask inside its box: h x w bool, on the device of the bits."""
        widths, heights = (self.boxes[:, 2:] - self.boxes[:, :2]).unbind(1)
        ends = ((widths * heights + 7) // 8).cumsum(0)  # in bytes
        width, height, end = int(widths[index]), int(heights[index]), int(ends[index])
        start = end - (width * height + 7) // 8
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=self.bits.device)
        pixels = (self.bits[start:end, None] >> shifts) & 1  # bytes x 8 bits
        return pixels.flatten()[: width * height].view(width, height).T.bool()

    def dense(self) -> Tensor:
        """Return N x H x W bool."""
        masks = torch.zeros((len(self), *self.size), dtype=torch.bool, device=self.bits.device)
        for index, (left, top, right, bottom) in enumerate(self.boxes.tolist()):
            masks[index, top:bottom, left:right] = self.crop(index)
        return masks


def project_masks(masks: MaskCrops | Tensor, boxes: Tensor, indices: Tensor, resolution: int) -> Tensor:
    """Resample the mask of each RoI's object inside the RoI, bit for bit as torchvision's `project_masks_on_boxes`.

    RoIAlign runs once per object, so that one mask at a time is dense, instead of all of them in float32.

    Args:
        masks: the masks of an image, N x H x W if dense.
        boxes: K x 4 xyxy in pixels.
        indices: K int64, the mask of each box.
        resolution: cells of the result per side.

    Returns:
        K x resolution x resolution in [0, 1], with the dtype of the boxes.
    """
    targets = boxes.new_zeros((len(boxes), resolution, resolution))
    order = indices.argsort()
    distinct, counts = indices.unique(return_counts=True)
    for index, chosen in zip(distinct.tolist(), order.split(counts.tolist()), strict=True):
        mask = masks[index] if isinstance(masks, Tensor) else _upper_left_part(masks, index)
        targets[chosen] = roi_align(mask[None, None].to(boxes.dtype), [boxes[chosen]], resolution)[:, 0]
    return targets


def _upper_left_part(masks: MaskCrops, index: int) -> Tensor:
    """Return a float32 mask up to its last row and column, and one more of each if the image has them.

    RoIAlign reads its last row and column for samples up to a pixel beyond them, and zeros further away. Shifted boxes,
    which would spare the part left of the object and above it, would change the last bits of the result.
    """
    left, top, right, bottom = masks.boxes[index].tolist()
    height, width = masks.size
    part = torch.zeros((min(bottom + 1, height), min(right + 1, width)), device=masks.bits.device)
    part[top:bottom, left:right] = masks.crop(index)
    return part
