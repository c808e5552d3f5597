"""Images in the forms that a user of a detector has: files, Pillow images, arrays and tensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, shorten
from .image_files import hide_pillow_warnings, read_header, read_problem
from .images import Range, from_numbers, from_pillow, read_image


@dataclass(frozen=True)
class ImageFile:
    """An image file whose EXIF orientation is known, 1 to 8; 1 ignores it."""

    path: Path
    orientation: int


ImageInput = str | Path | ImageFile | Image.Image | np.ndarray | Tensor


def read_input(image: ImageInput, channels: int = 3, image_range: Range | None = None) -> Tensor:
    """Return an image as a detector takes it.

    Args:
        image: a file, to which EXIF's orientation is applied; a Pillow image, taken as it is; an array H x W x C or
            H x W; or a tensor C x H x W or H x W, uint8 or float in [0, 1]. Colours are RGB.
        channels, image_range: see `read_image`. Numbers of files, Pillow images and arrays are scaled as described
            there; a tensor is taken as it is.

    Returns:
        C x H x W uint8, or float32 in [0, 1] of such a tensor.

    Raises:
        InputError: the image cannot be read, or does not give this number of channels.
    """
    if isinstance(image, (str, Path)):
        path = Path(image)
        header = read_header(path, decode=False)
        if header.problem is not None:
            raise InputError(f"image {shorten(path)} is unreadable ({header.problem})")
        image = ImageFile(path, header.orientation)
    try:
        if isinstance(image, ImageFile):
            return read_image(image.path, channels, image_range, image.orientation)
        if isinstance(image, Tensor):
            return _check_tensor(image, channels)
        return torch.from_numpy(_read_pixels(image, channels, image_range)).permute(2, 0, 1)
    except ValueError as error:
        raise InputError(f"{_name(image)} is unreadable ({error})") from None


def _read_pixels(image: Any, channels: int, image_range: Range | None) -> np.ndarray:
    if isinstance(image, Image.Image):
        hide_pillow_warnings()
        try:
            image.load()
            return from_pillow(image, channels, image_range)
        except Exception as error:  # what Pillow raises for broken files has no common class
            raise ValueError(read_problem(error, Path())) from None
    if not isinstance(image, np.ndarray):
        raise ValueError("expected a path, a Pillow image, an array H x W x C or a tensor C x H x W")
    if image.ndim not in (2, 3) or image.dtype.kind not in "buif" or not image.size:
        raise ValueError(f"expected numbers H x W or H x W x C, got {image.dtype} of shape {image.shape}")
    if image.ndim == 3 and image.shape[0] == channels != image.shape[2]:
        raise ValueError(f"expected H x W x {channels}, got shape {image.shape}; transpose it, or give a tensor")
    return from_numbers(image.reshape(*image.shape[:2], -1), channels, image_range)


def _check_tensor(image: Tensor, channels: int) -> Tensor:
    pixels = image.detach()[None] if image.dim() == 2 else image.detach()
    if pixels.dim() != 3 or not pixels.numel():
        raise ValueError(f"expected a tensor C x H x W, got shape {tuple(image.shape)}")
    if pixels.shape[0] == 1:
        pixels = pixels.expand(channels, -1, -1)
    if pixels.shape[0] != channels:
        raise ValueError(f"expected a tensor {channels} x H x W, got shape {tuple(image.shape)}")
    if pixels.dtype == torch.uint8:
        return pixels.cpu()
    if not pixels.is_floating_point():
        raise ValueError(f"a tensor must be uint8, or float in [0, 1], got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"a tensor must be uint8, or float in [0, 1], got values from {low:g} to {high:g}")
    return pixels.float().cpu()


def _name(image: Any) -> str:
    if isinstance(image, ImageFile):
        return f"image {shorten(image.path)}"
    return f"image of type {type(image).__name__}"
