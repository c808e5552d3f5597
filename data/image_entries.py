"""Check the entries of section "images" against their files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import shorten
from .image_files import DEEP_COLOUR_PROBLEM, ImageHeader, read_headers
from .image_folder import ImageFolder
from .problems import Report
from .segmentations import whole_number
from .sizes import MAX_PIXELS, resized_shape

MAX_SIDE = 60_000  # pixels; COCO's RLE counts the pixels of an image in 32 bits


@dataclass(frozen=True)
class ImageUse:
    """How images will be used, which their files must allow.

    Attributes:
        channels, image_range: see `images.read_image`.
        short_side, long_side: see `sizes.resized_shape`; the largest size that images get.
    """

    channels: int = 3
    image_range: Sequence[float] | None = None
    short_side: int | None = None
    long_side: int | None = None


def clean_images(
    entries: list[dict], image_dir: Path | None, report: Report, use: ImageUse | None = None
) -> dict[Any, str]:
    """Check the entries of images; complete and correct them in place.

    "file_name" becomes the name of the file that exists. A size that is missing or 0 is taken from the file.
    "exif_orientation" is added to an entry whose file is to be rotated: EXIF's orientation is applied if the annotated
    size is that of the rotated image. If the size does not tell (a square image, or a turn by 180 degrees), it is
    applied as well, unless more of the other images are annotated without rotation.

    Args:
        entries: images with checked ids.
        image_dir: folder of the files; None: files are not looked at.
        report: output; its problems are left out with `skip_unreadable`.
        use: how the images will be used; None: not checked.

    Returns:
        id -> why the image cannot be read.
    """
    for entry in entries:
        entry.pop("exif_orientation", None)  # of somebody else's
    problems: dict[Any, str] = {}
    headers: dict[Any, ImageHeader] = {}
    if image_dir is not None:
        names = _find_files(entries, image_dir, problems, report)
        found = read_headers([image_dir / name for name in names.values()], None if use is None else use.channels)
        headers = dict(zip(names, found, strict=True))
    for entry in entries:
        header = headers.get(entry["id"])
        problem = _clean_size(entry, header, report)
        problem = problem if header is None or header.problem is None else f"unreadable: {header.problem}"
        if problem is None and use is not None:
            problem = _use_problem(entry, header, use)
        if problem is not None:
            problems.setdefault(entry["id"], problem)
    _count_repeated_files(entries, report)
    readable = [entry for entry in entries if entry["id"] in headers and entry["id"] not in problems]
    _set_orientations([(entry, headers[entry["id"]]) for entry in readable], report)
    for entry in entries:
        if entry["id"] in problems:
            report.add(f"image {entry['file_name']}", problems[entry["id"]], "skip_unreadable")
    return problems


def _count_repeated_files(entries: list[dict], report: Report) -> None:
    repeated = {name: count for name, count in Counter(entry["file_name"] for entry in entries).items() if count > 1}
    if repeated:
        name = shorten(next(iter(repeated)))
        text = f"images have the file of another image, such as {name}, so objects of one are missing in the other"
        report.repairs[text] += sum(repeated.values())


def _set_orientations(images: list[tuple[dict, ImageHeader]], report: Report) -> None:
    """Add "exif_orientation" to the entries of images that are to be rotated, see `clean_images`."""
    turned = [(entry, header, _matches_rotation(entry, header)) for entry, header in images if header.orientation > 1]
    counts = Counter(is_rotated for _, _, is_rotated in turned)
    is_applied = counts[True] >= counts[False]
    for entry, header, is_rotated in turned:
        if is_rotated or (is_rotated is None and is_applied):
            entry["exif_orientation"] = header.orientation
    if counts[None]:
        action = "applied" if is_applied else "ignored, as by most other images,"
        text = f"EXIF orientation was {action} though the annotated size does not tell whether the boxes follow it"
        report.repairs[text] += counts[None]


def displayed_size(header: ImageHeader) -> tuple[int, int]:
    """Return width and height after EXIF's orientation."""
    size = (header.width, header.height)
    return size[::-1] if header.orientation >= 5 else size


def _find_files(entries: list[dict], image_dir: Path, problems: dict[Any, str], report: Report) -> dict[Any, str]:
    """Correct the file names, and return the names of the files that exist by image id."""
    folder = ImageFolder(image_dir)
    names = {}
    for entry in entries:
        name = folder.find(entry["file_name"])
        if name is None:
            problems[entry["id"]] = f"image file does not exist: not in {image_dir}{folder.suggest(entry['file_name'])}"
            continue
        if name != entry["file_name"]:
            report.repairs["file names were spelled otherwise than their files (backslash or Unicode form)"] += 1
            entry["file_name"] = name
        names[entry["id"]] = name
    return names


def _use_problem(entry: dict, header: ImageHeader | None, use: ImageUse) -> str | None:
    """Return why an image cannot be used so."""
    if header is not None and header.deep_colour and use.image_range is not None:
        return f"unreadable: {DEEP_COLOUR_PROBLEM}"
    height, width = resized_shape(entry["height"], entry["width"], use.short_side, use.long_side)
    if height * width <= MAX_PIXELS:
        return None
    limit = f"at most {MAX_PIXELS / 1e6:.0f} megapixels can be used"
    return f"too large: it would have {width}x{height} pixels, {limit}; set a smaller short_side"


def _clean_size(entry: dict, header: ImageHeader | None, report: Report) -> str | None:
    """Write width and height as whole numbers, from the header if they are missing; return what is wrong with them."""
    known = header is not None and header.problem is None
    for key in ("width", "height"):
        value = entry.get(key)
        if isinstance(value, str):
            value = _read_number(value)
        if (value is None or value == 0) and header is not None and known:
            entry[key] = displayed_size(header)[key == "height"]
            report.repairs["width or height was missing, and taken from the file"] += 1
            continue
        if value is None and header is None:
            entry[key] = 0
            return f"{key} is missing, and without its file it is not known; set image_dir"
        number = whole_number(value)
        if number is None or not 1 <= number <= MAX_SIDE:
            entry[key] = 0
            return f"{key} must be a whole number of pixels from 1 to {MAX_SIDE}: {shorten(repr(value))}"
        entry[key] = number
    size = (entry["width"], entry["height"])
    if header is None or not known or size in ((header.width, header.height), displayed_size(header)):
        return None
    return f"its size differs from the annotated one: {header.width}x{header.height}, annotated {size[0]}x{size[1]}"


def _read_number(text: str) -> float | str | None:
    """Return the number that a text stands for, None for a blank one, and any other text itself."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text


def _matches_rotation(entry: dict, header: ImageHeader) -> bool | None:
    """Return whether the annotated size is that of the rotated image; None if both sizes are the same."""
    displayed = displayed_size(header)
    if displayed == (header.width, header.height):
        return None
    return (entry["width"], entry["height"]) == displayed
