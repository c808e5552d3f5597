"""Check the entries of section "images" against their files."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import shorten
from .image_files import ImageFolder, ImageHeader, read_headers
from .problems import Report
from .segmentations import whole_number

MAX_SIDE = 60_000  # pixels; COCO's RLE counts the pixels of an image in 32 bits


def clean_images(
    entries: list[dict],
    image_dir: Path | None,
    report: Report,
    channels: int | None = None,
    max_pixels: float = math.inf,
) -> dict[Any, str]:
    """Check the entries of images; complete and correct them in place.

    "file_name" becomes the name of the file that exists. A missing size is taken from the file. "exif_orientation" is
    added to an entry whose file is to be rotated: EXIF's orientation is applied if the annotated size is that of the
    rotated image. If the size does not tell (a square image, or a turn by 180 degrees), it is applied as well, unless
    more of the other images are annotated without rotation.

    Args:
        entries: images with checked ids.
        image_dir: folder of the files; None: files are not looked at.
        report: output; its problems are left out with `skip_unreadable`.
        channels: number of channels that the files must give; None: any.
        max_pixels: largest number of pixels of an image.

    Returns:
        id -> why the image cannot be read.
    """
    problems: dict[Any, str] = {}
    headers = {}
    if image_dir is not None:
        names = _find_files(entries, image_dir, problems, report)
        found = read_headers([image_dir / name for name in names.values()], channels)
        headers = dict(zip(names, found, strict=True))
    rotated: Counter[bool] = Counter()
    unclear = []
    for entry in entries:
        header = headers.get(entry["id"])
        problem = _clean_size(entry, header)
        problem = problem if header is None or header.problem is None else f"unreadable: {header.problem}"
        if problem is not None:
            problems.setdefault(entry["id"], problem)
        elif entry["width"] * entry["height"] > max_pixels:
            megapixels = entry["width"] * entry["height"] / 1e6
            problems[entry["id"]] = f"too large to be used unresized: {megapixels:.0f} megapixels; set short_side"
        elif header is not None and header.orientation > 1:
            is_rotated = _matches_rotation(entry, header)
            rotated[is_rotated is True] += is_rotated is not None
            if is_rotated:
                entry["exif_orientation"] = header.orientation
            elif is_rotated is None:
                unclear.append((entry, header))
    if unclear:
        is_applied = rotated[True] >= rotated[False]
        for entry, header in unclear:
            entry["exif_orientation"] = header.orientation if is_applied else 1
        action = "applied" if is_applied else "ignored, as by most other images,"
        text = f"EXIF orientation was {action} though the annotated size does not tell whether the boxes follow it"
        report.repairs[text] += len(unclear)
    for entry in entries:
        if entry["id"] in problems:
            report.add(f"image {entry['file_name']}", problems[entry["id"]], "skip_unreadable")
    return problems


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


def _clean_size(entry: dict, header: ImageHeader | None) -> str | None:
    """Write width and height as whole numbers, from the header if they are missing; return what is wrong with them."""
    known = header is not None and header.problem is None
    for key in ("width", "height"):
        value = entry.get(key)
        if value is None and header is not None and known:
            entry[key] = displayed_size(header)[key == "height"]
            continue
        number = whole_number(value)
        if number is None or not 1 <= number <= MAX_SIDE:
            entry[key] = 0
            return f"{key} must be a whole number of pixels from 1 to {MAX_SIDE}: {shorten(value)}"
        entry[key] = number
    size = (entry["width"], entry["height"])
    if header is None or not known or size in ((header.width, header.height), displayed_size(header)):
        return None
    return f"its size differs from the annotated one: {header.width}x{header.height}, annotated {size[0]}x{size[1]}"


def _matches_rotation(entry: dict, header: ImageHeader) -> bool | None:
    """Return whether the annotated size is that of the rotated image; None if both sizes are the same."""
    displayed = displayed_size(header)
    if displayed == (header.width, header.height):
        return None
    return (entry["width"], entry["height"]) == displayed
