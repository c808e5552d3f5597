"""Read image files of any kind as uint8 tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from .image_files import (
    DEEP_COLOUR_PROBLEM,
    channel_pages,
    channels_problem,
    has_hidden_bands,
    hide_pillow_warnings,
    is_deep_colour,
    open_array,
    read_orientation,
    read_problem,
)

BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # tags of a TIFF file and their values
SAMPLE_FORMAT, UNSIGNED = 339, 1
UNDO = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

Range = tuple[float, float]


def read_image(path: Path, channels: int = 3, image_range: Range | None = None, orientation: int = 1) -> Tensor:
    """Read an image with Pillow, or from a .npy file.

    Values of 8 bits are kept, others are scaled by `value_range`. Pillow reduces 16-bit colour to its upper 8 bits; a
    .npy file keeps the depth. Transparency is dropped as by Pillow's `convert("RGB")` and by OpenCV, which read the
    colours below it. Of an animation, the first frame is read.

    Args:
        path: the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA; a CMYK image stays CMYK), to which images are converted. Otherwise it
            must be the file's own number: C of an array H x W x C, single-channel pages of a TIFF file, or bands.
        image_range: values that become 0 and 255, also of 8-bit images; what lies outside is clipped. 16-bit colour
            must then be an array, because Pillow would have cut off the values that it means.
        orientation: EXIF's orientation, 1 to 8, which is applied.

    Returns:
        C x H x W uint8, in memory H x W x C: Pillow's order, in which the resize is fastest.

    Raises:
        ValueError: the file cannot be read, or it has another number of channels.
    """
    hide_pillow_warnings()
    try:
        pixels = _read_pixels(path, channels, image_range)
    except Exception as error:  # what Pillow and numpy raise for broken files has no common class
        raise ValueError(read_problem(error, path)) from None
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return torch.from_numpy(np.ascontiguousarray(pixels[::rows, ::columns])).permute(2, 0, 1)


def value_range(values: np.ndarray) -> Range:
    """Return the values of an image that become 0 and 255.

    They follow from the image alone, so that two images of one dataset may be scaled differently.

    - Whole numbers: 0 and `2**bits - 1`, with the smallest of 8, 10, 12, 14, 16, 24 and 32 bits that holds the largest
      value.
    - Floats: 0 and 1 if the largest is at most 2, because reflectances pass 1 a little; 0 and 255 if it is at most 255.
      Values that are not finite are not looked at.
    - Any other numbers, such as negative ones: the smallest and the largest.
    """
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size or values.dtype.kind == "b":
        return 0, 1
    low, high = values.min().item(), values.max().item()
    if low < 0:
        return low, high
    if values.dtype.kind == "f":
        return 0, 1 if high <= 2 else max(high, 255)
    return 0, next((2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits), high)


def scale_to_bytes(values: np.ndarray, image_range: Range) -> np.ndarray:
    """Scale numbers linearly to uint8. NaN becomes 0."""
    low, high = map(float, image_range)
    numbers: np.ndarray[Any, np.dtype[np.floating]] = values.astype(np.float64 if values.itemsize > 4 else np.float32)
    with np.errstate(all="ignore"):
        scaled = (numbers - low) * (255 / ((high - low) or 1)) + 0.5
    return np.nan_to_num(scaled, nan=0).clip(0, 255).astype(np.uint8)


def _read_pixels(path: Path, channels: int, image_range: Range | None) -> np.ndarray:
    """Return H x W x C uint8."""
    if path.suffix.lower() == ".npy":
        return from_numbers(open_array(path), channels, image_range)
    with Image.open(path) as file:
        pages = channel_pages(file)
        if len(pages) > 1:
            return from_numbers(np.stack([_page(file, page) for page in pages], axis=2), channels, image_range)
        return from_pillow(file, channels, image_range)


def from_pillow(image: Image.Image, channels: int, image_range: Range | None = None) -> np.ndarray:
    """Return the pixels of an image that Pillow has opened, H x W x C uint8; see `read_image`.

    Raises:
        ValueError: it cannot be decoded, or does not give this number of channels.
    """
    if image.mode.startswith(("I", "F")):  # more than 8 bits
        return from_numbers(_numbers(image)[..., None], channels, image_range)
    if image_range is not None and is_deep_colour(image):
        raise ValueError(DEEP_COLOUR_PROBLEM)
    if channels != len(image.getbands()) and has_hidden_bands(image):
        raise ValueError(channels_problem(len(image.getbands()), channels))
    pixels = _convert(_as_stored(image), channels)
    return pixels if image_range is None else scale_to_bytes(pixels, image_range)


def from_numbers(values: np.ndarray, channels: int, image_range: Range | None = None) -> np.ndarray:
    """Scale an array H x W x C to uint8, and convert it to another number of channels if it is grey or RGB.

    Raises:
        ValueError: it has another number of channels, or no finite value.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise ValueError("it has no finite value")
    if image_range is not None or values.dtype != np.uint8:
        values = scale_to_bytes(values, image_range or value_range(values))
    found = values.shape[2]
    if found in (1, 3) and found != channels:
        return _convert(Image.fromarray(np.ascontiguousarray(values[..., 0] if found == 1 else values)), channels)
    if found != channels:
        raise ValueError(channels_problem(found, channels))
    return np.array(values)  # in memory, if it was a mapped file


def _page(file: Image.Image, number: int) -> np.ndarray:
    file.seek(number)
    return _numbers(file)


def _numbers(file: Image.Image) -> np.ndarray:
    """Return the pixels of a single-channel image that is not loaded yet.

    Pillow reads unsigned 32-bit numbers of a TIFF file as signed ones, and does not invert 16-bit ones with white at 0.
    """
    tags = file.tag_v2 if isinstance(file, TiffImageFile) else {}
    is_unsigned = tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,)
    values = np.array(_as_stored(file))
    if tags and file.mode == "I" and is_unsigned:
        values = values.view(np.uint32)
    if file.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 65535 - values
    return values


def _as_stored(file: Image.Image) -> Image.Image:
    """Return an image as the file has it: Pillow rotates a TIFF file when it loads it, which is undone."""
    if isinstance(file, TiffImageFile) and (orientation := read_orientation(file)) in UNDO:
        file.filename = ""  # else Pillow maps the file with width and height swapped, which scrambles it
        return file.transpose(UNDO[orientation])
    return file


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    if len(image.getbands()) == channels and (channels not in MODES or image.mode == "CMYK"):
        return np.array(image)
    if channels not in MODES:
        raise ValueError(channels_problem(len(image.getbands()), channels))
    if image.mode == "LAB":  # converts to RGB alone
        image = image.convert("RGB")
    pixels = np.array(image.convert(MODES[channels]))
    return pixels[..., None] if pixels.ndim == 2 else pixels
