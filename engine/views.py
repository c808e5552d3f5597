"""Views of an image, which a detector sees in place of the image itself: resized, flipped, and tiles of it."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from ..data.sizes import MAX_PIXELS, resized_shape
from ..detectors.base import Detector
from ..errors import InputError
from .limits import raised_limits
from .merging import Found
from .tiling import Window


@dataclass(frozen=True)
class View:
    """A part of an image in the size that a detector gets.

    Attributes:
        window: the part, xyxy in pixels of the image.
        size: height and width that it is resized to.
        flipped: mirrored left to right.
        limit_factor: see `raised_limits`.
    """

    window: Window
    size: tuple[int, int]
    flipped: bool = False
    limit_factor: float = 1.0

    def render(self, image: Tensor) -> Tensor:
        """Return the pixels, C x H x W, of the whole image C x H x W."""
        x1, y1, x2, y2 = self.window
        part = image[:, y1:y2, x1:x2]
        if self.size != (y2 - y1, x2 - x1):  # as `CocoDataset` resizes
            part = TF.resize(part, list(self.size), antialias=True)
        return part.flip(-1) if self.flipped else part

    def restore(self, found: Found) -> Found:
        """Return detections in pixels of the window as those in pixels of the image."""
        x1, y1, x2, _ = self.window
        boxes = found["boxes"]
        if self.flipped:
            boxes = torch.stack([x2 - x1 - boxes[:, 2], boxes[:, 1], x2 - x1 - boxes[:, 0], boxes[:, 3]], 1)
        restored = found | {"boxes": boxes + boxes.new_tensor([x1, y1, x1, y1]) if x1 or y1 else boxes}
        if self.flipped and "masks" in found:
            restored["masks"] = found["masks"].flip(-1)
        return restored


def input_size(
    height: int, width: int, short_side: int | None, long_side: int | None, scale: float = 1
) -> tuple[int, int]:
    """Return the size that an image gets in a test, times `scale`. Raises InputError if it has too many pixels."""
    size = resized_shape(height, width, short_side, long_side)
    if scale != 1:
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if size[0] * size[1] > MAX_PIXELS:
        found, limit = f"{size[0] * size[1] / 1e6:.0f} megapixels", f"{MAX_PIXELS / 1e6:.0f}"
        raise InputError(f"an image of {width} x {height} would have {found}, more than {limit}; use tile=(1024, 0.2)")
    return size


def run_views(
    model: Detector, jobs: Iterable[tuple[Tensor, View]], batch_size: int, device: torch.device
) -> Iterator[Found]:
    """Yield the detections of each view in pixels of its image, masks as the mask head returns them, on the CPU.

    Successive views of one size go through the network together, so that padding never touches a result.

    Args:
        model: in evaluation mode, on the device.
        jobs: (whole image C x H x W, view).
        batch_size: most views at once.
        device: where the model is.
    """
    for (_, factor), same_size in itertools.groupby(jobs, key=lambda job: (job[1].size, job[1].limit_factor)):
        while batch := list(itertools.islice(same_size, batch_size)):
            windows = [view.window for _, view in batch]
            sizes = [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in windows]
            pixels = [view.render(image).to(device) for image, view in batch]
            with raised_limits(model, factor):
                outputs: Sequence[Found] = model.predict(pixels, sizes, paste=False)
            for (_, view), output in zip(batch, outputs, strict=True):
                yield view.restore({key: value.cpu() for key, value in output.items()})
