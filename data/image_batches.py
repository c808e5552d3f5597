"""Batches of images of one size, for networks that take images as they are, without padding."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from ..errors import InputError, shorten
from .image_files import read_headers
from .images import Range, read_image
from .sizes import MAX_PIXELS, resized_shape

MAX_BATCH_PIXELS = 2**23  # ResNet-50 with FPN needs 360 bytes per pixel and with output stride 8 550, up to 5 GB


@dataclass(frozen=True)
class Item:
    """An image file.

    Attributes:
        name: a name of the caller's.
        path: the file.
        size: height and width after EXIF's orientation and resizing.
        orientation: EXIF's orientation.
    """

    name: Path
    path: Path
    size: tuple[int, int]
    orientation: int

    def read(self, channels: int, image_range: Range | None) -> Tensor:
        """Return the image as C x height x width uint8, see `read_image`. Raises InputError if it does not decode."""
        try:
            image = read_image(self.path, channels, image_range, self.orientation)
        except ValueError as error:
            raise InputError(f"image {shorten(self.path)} is unreadable ({error})") from None
        same_size = self.size == tuple(image.shape[-2:])
        return image if same_size else TF.resize(image, list(self.size), antialias=True)


def make_items(images: Mapping[Path, Path], short_side: int | None, channels: int) -> tuple[list[Item], list[str]]:
    """Read the headers of images.

    Args:
        images: name -> file.
        short_side: see `resized_shape`.
        channels: number of channels that the images must give.

    Returns:
        The readable images, and an error message for each of the others.

    Raises:
        InputError: an image has more pixels after resizing than MAX_PIXELS.
    """
    items, unreadable = [], []
    for (name, path), header in zip(images.items(), read_headers(list(images.values()), channels), strict=True):
        if header.problem is not None:
            unreadable.append(f"image {shorten(path)} is unreadable ({header.problem})")
            continue
        height, width = header.height, header.width
        if header.orientation >= 5:
            height, width = width, height
        height, width = resized_shape(height, width, short_side, None)
        if height * width > MAX_PIXELS:
            found, limit = f"{height * width / 1e6:.1f} megapixels ({width} x {height})", MAX_PIXELS / 1e6
            advice = "set short_side=" if short_side is None else "set a smaller short_side="
            raise InputError(f"image {shorten(path)} would have {found}, more than {limit:.0f}; {advice}")
        items.append(Item(name, path, (height, width), header.orientation))
    return items, unreadable


def make_batches(items: Sequence[Item], batch_size: int) -> Iterator[list[Item]]:
    """Yield lists of images of one size: at most `batch_size` and MAX_BATCH_PIXELS together, but at least one image."""
    ordered = sorted(items, key=lambda item: (item.size, item.name))
    for (height, width), group in itertools.groupby(ordered, key=lambda item: item.size):
        count = max(1, min(batch_size, MAX_BATCH_PIXELS // (height * width)))
        same_size = list(group)
        for start in range(0, len(same_size), count):
            yield same_size[start : start + count]
