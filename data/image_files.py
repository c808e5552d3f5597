"""Read the headers of image files: size, channels, orientation, and whether they decode."""

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import shorten
from .cache import FileFacts

MAX_DECODED = 5000  # if more files than this are new, most are judged by their start and end
THREADS = 8
LARGE_PIXELS = 25e6  # images above are decoded one at a time, which bounds the memory of the threads
TIFF_SUFFIXES = (".tif", ".tiff")
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # chunks with an orientation
PNG_TAIL = 65536  # bytes at the end of a PNG file in which these chunks are looked for
PAGE_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # pages of a TIFF in these modes are channels
CONVERTIBLE = (1, 3, 4)  # grey, RGB, RGBA
EXIF_ORIENTATION = 0x0112
IMAGE_WIDTH, IMAGE_LENGTH, SAMPLES_PER_PIXEL = 256, 257, 277  # tags of a TIFF file

PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # an entry of warnings.filters

DEEP_COLOUR_PROBLEM = "image_range cannot be applied to 16-bit colour, of which Pillow keeps 8 bits; save it as .npy"

_one_large_image = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """What is known about an image file without its pixels.

    Attributes:
        width, height: size as stored, before EXIF's orientation.
        channels: bands of Pillow's mode; pages of a TIFF file if it has several single-channel pages of one size; C of
            an array H x W x C.
        orientation: EXIF's orientation, 1 to 8; 1 if there is none or it is broken.
        convertible: whether the image also gives grey, RGB and RGBA, and not its own channels alone.
        deep_colour: whether Pillow reduces its channels from 16 bits to 8.
        problem: why the image cannot be used, or None. An unreadable image may have the size 0 x 0.
    """

    width: int
    height: int
    channels: int
    orientation: int = 1
    convertible: bool = True
    deep_colour: bool = False
    problem: str | None = None


def read_headers(paths: Sequence[Path], channels: int | None = None) -> list[ImageHeader]:
    """Read the headers of image files, and check that the files decode.

    A file is read once: its header is kept in the user's cache folder while its path, size and time of change stay the
    same. At most 5,000 new files are decoded. If there are more, a JPEG or PNG file that ends with the end marker of
    its format counts as readable without being decoded, so that checking COCO's 118,287 images only opens them.

    Args:
        paths: files that Pillow reads, and .npy files with numbers H x W or H x W x C.
        channels: the number of channels that images must give, else they have a `problem`. None: any number.
    """
    facts = FileFacts(f"headers-3-pillow-{PIL.__version__}", paths)
    headers = [_from_facts(facts.get(index)) for index in range(len(paths))]
    new = [index for index, header in enumerate(headers) if header is None]
    decode = len(new) <= MAX_DECODED
    has_tiff = any(paths[index].suffix.lower() in TIFF_SUFFIXES for index in new)
    with _no_stderr() if has_tiff else contextlib.nullcontext(), ThreadPoolExecutor(THREADS) as pool:
        for index, header in zip(new, pool.map(lambda index: read_header(paths[index], decode), new)):
            headers[index] = header
    complete = [header for header in headers if header is not None]
    readable = {index: list(astuple(complete[index])[:-1]) for index in new if complete[index].problem is None}
    if readable:
        facts.save(readable)
    return complete if channels is None else [_check_channels(header, channels) for header in complete]


def read_header(path: Path, decode: bool = True) -> ImageHeader:
    """Read the header of one image file; never raises.

    Args:
        path: the file.
        decode: decode the file to find out whether it is readable, also if it ends with the end marker of its format.
    """
    hide_pillow_warnings()
    try:
        if not path.is_file():  # also a pipe, which would be waited for
            raise ValueError("it is not a file")
        if path.suffix.lower() == ".npy":
            height, width, channels = open_array(path).shape
            return ImageHeader(width, height, channels, convertible=channels in (1, 3))
        with Image.open(path) as image:
            pages = channel_pages(image)
            channels = len(pages) if len(pages) > 1 else len(image.getbands())
            is_whole = len(pages) == 1 and not has_hidden_bands(image)
            header = ImageHeader(*_stored_size(image), channels, 1, is_whole, is_deep_colour(image))
            orientation = 1 if image.format == "PNG" else read_orientation(image)
            if decode or not _has_end_marker(path):
                _decode(image, pages)
            if image.format == "PNG":  # its EXIF data may stand behind the pixels
                orientation = read_orientation(image)
        return replace(header, orientation=orientation)
    except Exception as error:  # what Pillow and numpy raise for broken files has no common class
        return ImageHeader(0, 0, 0, problem=read_problem(error, path))


def hide_pillow_warnings() -> None:
    """Hide that Pillow warns about what it reads nevertheless, such as images near its limit.

    A filter of the user comes first. `warnings.catch_warnings` around every image would make Python repeat warnings of
    other code, which it shows once otherwise.
    """
    if PILLOW_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=PILLOW_WARNINGS[3].pattern, append=True)


def read_problem(error: Exception, path: Path) -> str:
    """Return in one line why an image cannot be read, without its path."""
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.findall(r"\d+", str(error))
        return _too_large(int(pixels[0]) if pixels else 0)
    text = getattr(error, "strerror", None) or str(error).replace(f" {str(path)!r}", "")
    if not text or not isinstance(error, (OSError, SyntaxError, ValueError)):
        text = f"{type(error).__name__}: {text}"
    return shorten(text, 160)


def channels_problem(found: int, expected: int) -> str:
    """Return the error message on an image that cannot give the number of channels asked for."""
    advice = f"set image_channels={found}, or save it as .npy H x W x {expected}"
    return f"it has {found} channel(s), expected {expected}; {advice}"


def is_deep_colour(image: Image.Image) -> bool:
    """Return whether Pillow reduces the colours of an image that is not loaded yet from 16 bits to 8."""
    tiles = getattr(image, "tile", [])
    if len(image.getbands()) == 1 or not tiles:
        return False
    arguments = tiles[0][3]
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return isinstance(raw_mode, str) and ";16" in raw_mode


def has_hidden_bands(image: Image.Image) -> bool:
    """Return whether a TIFF file has more samples per pixel than Pillow reads, such as near infrared beside RGB."""
    samples = image.tag_v2.get(SAMPLES_PER_PIXEL) if isinstance(image, TiffImageFile) else None
    return isinstance(samples, int) and samples > len(image.getbands())


def open_array(path: Path) -> np.ndarray:
    """Map a .npy file without reading it.

    Returns:
        H x W x C numbers.

    Raises:
        ValueError: it is not such a file, or has more pixels than Pillow's limit.
    """
    array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
        raise ValueError(f"expected numbers H x W or H x W x C, got {array.dtype} of shape {array.shape}")
    pixels = array.shape[0] * array.shape[1]
    if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(_too_large(pixels))
    return array.reshape(*array.shape[:2], -1)


def channel_pages(image: Image.Image) -> list[int]:
    """Return the numbers of the pages that are the channels of a TIFF file; [0] if the first page is the image."""
    if image.format != "TIFF" or image.mode not in PAGE_MODES:
        return [0]
    size, pages = image.size, []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        if image.size == size and image.mode in PAGE_MODES:
            pages.append(number)
    image.seek(0)
    return pages


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard standard error, where libtiff writes several lines on a broken file, beside the error that is raised."""
    try:
        saved = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _from_facts(facts: list | None) -> ImageHeader | None:
    valid = facts is not None and len(facts) == 6 and set(map(type, facts)) <= {int, bool}
    return ImageHeader(*facts) if facts is not None and valid else None


def _check_channels(header: ImageHeader, channels: int) -> ImageHeader:
    gives = channels == header.channels or (header.convertible and channels in CONVERTIBLE)
    if gives or header.problem is not None:
        return header
    return replace(header, problem=channels_problem(header.channels, channels))


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image that is not loaded yet.

    When Pillow loads a TIFF file, it rotates it and forgets the orientation.
    """
    try:
        value = Image.Image.getexif(image).get(EXIF_ORIENTATION)  # that of a PNG file would decode it
    except Exception:  # broken EXIF data
        return 1
    return value if type(value) is int and 1 <= value <= 8 else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height before rotation; Pillow swaps them when it opens a TIFF file."""
    return (image.tag_v2[IMAGE_WIDTH], image.tag_v2[IMAGE_LENGTH]) if isinstance(image, TiffImageFile) else image.size


def _decode(image: Image.Image, pages: Sequence[int]) -> None:
    width, height = image.size
    with _one_large_image if width * height > LARGE_PIXELS else contextlib.nullcontext():
        for page in pages:
            if page:
                image.seek(page)
            image.draft("L", (1, 1))  # JPEG: the small image needs the whole file, but less arithmetic
            image.load()


def _has_end_marker(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(len(PNG_START))
        tail = PNG_TAIL if start == PNG_START else len(JPEG_END)
        file.seek(-min(tail, os.path.getsize(path)), os.SEEK_END)
        end = file.read()
    if start == PNG_START:
        return end.endswith(PNG_END) and not any(mark in end.rpartition(b"IDAT")[2] for mark in PNG_EXIF)
    return start.startswith(JPEG_START) and end.endswith(JPEG_END)


def _too_large(pixels: int) -> str:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    name = "Pillow's limit, twice PIL.Image.MAX_IMAGE_PIXELS"
    return f"it has {pixels / 1e6:.0f} megapixels, more than {limit / 1e6:.0f} ({name}); scale it down or cut it up"
