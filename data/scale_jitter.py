"""Large-scale jitter (Ghiasi et al. 2020, arXiv:2012.07177)."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from ..layers.mask_crops import MaskCrops
from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class LargeScaleJitter(v2.Transform):
    """Resize by a random scale, then crop or pad at the right and bottom to a fixed size.

    The image is resized to fit into `size` times the scale, with its aspect ratio kept; a larger one is cropped at a
    random place. This is detectron2's ResizeScale and FixedSizeCrop. Masks are transformed one at a time, because an
    enlarged stack of them would be several times as large as the result.

    Args:
        size: height and width of the result.
        scale: the range of the scale; 0.8 to 1.25 is the paper's standard scale jitter.
        fill: value of padded pixels.
    """

    def __init__(
        self, size: tuple[int, int] = (1024, 1024), scale: tuple[float, float] = (0.1, 2.0), fill: float = 128
    ):
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be height and width of at least 1, got {size}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be a range above 0, got {scale}")
        self.size, self.scale, self.fill = tuple(size), tuple(scale), fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size after the resize, and the upper left corner of the crop."""
        height, width = v2.query_size(flat_inputs)
        scale, offset = torch.rand(2).tolist()
        scale = self.scale[0] + scale * (self.scale[1] - self.scale[0])
        factor = scale * min(self.size[0] / height, self.size[1] / width)
        resized = [max(1, round(side * factor)) for side in (height, width)]
        return {
            "resized": resized,
            "corner": [round(max(side - limit, 0) * offset) for side, limit in zip(resized, self.size)],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Transform an image, boxes, or masks."""
        if not isinstance(inpt, tv_tensors.Mask):
            return self._resize_and_crop(inpt, params, self.fill)
        masks = inpt.new_zeros((len(inpt), *self.size))
        for mask, result in zip(inpt, masks):
            result.copy_(self._resize_and_crop(tv_tensors.Mask(mask[None]), params, 0)[0])
        return tv_tensors.wrap(masks, like=inpt)

    def _resize_and_crop(self, inpt: Any, params: dict[str, Any], fill: float) -> Any:
        inpt = self._call_kernel(TF.resize, inpt, params["resized"], antialias=True)
        height, width = (min(side, limit) for side, limit in zip(params["resized"], self.size))
        inpt = self._call_kernel(TF.crop, inpt, *params["corner"], height, width)
        padding = [0, 0, self.size[1] - width, self.size[0] - height]
        return self._call_kernel(TF.pad, inpt, padding, fill=fill) if any(padding) else inpt


@TRANSFORMS.register_module()
class BoxesFromMasks:
    """Shrink the boxes to the masks after a crop or a rotation, and drop objects without a pixel.

    detectron2 calls it `recompute_boxes`. Without masks nothing changes.
    """

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        if "masks" not in target:
            return image, target
        masks = (mask.numpy() for mask in target["masks"].as_subclass(Tensor))
        boxes = MaskCrops.pack(masks, (image.shape[-2], image.shape[-1])).boxes
        keep = boxes[:, 2] > boxes[:, 0]
        objects = {
            name: value if keep.all() else value[keep] for name, value in target.items() if name in ("labels", "masks")
        }
        return image, {**target, **objects, "boxes": tv_tensors.wrap(boxes[keep].float(), like=target["boxes"])}
