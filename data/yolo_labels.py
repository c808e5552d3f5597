"""Find and read YOLO's files of labels, one per image."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import InputError, shorten
from .files import read_file, walk_files
from .image_folder import composed, list_folder

BOX_NUMBERS = 4
MIN_POLYGON_NUMBERS = 6


def label_places(image: Path) -> list[Path]:
    """Return where the label file of an image may be: in the folder `labels` for `images`, then beside the image."""
    beside = image.parent / f"{image.stem}.txt"  # a listed "/" has no name, for which with_suffix raises
    *folders, name = beside.parts
    if "images" not in folders:
        return [beside]
    last = len(folders) - 1 - folders[::-1].index("images")
    return [Path(*folders[:last], "labels", *folders[last + 1 :], name), beside]


def find_labels(images: Sequence[Path]) -> list[Path | None]:
    """Return the label file of each image.

    Where none has the exact name, it may be spelled in another Unicode form or with other capitals, as in "A.TXT", if
    that is not the file of another image.
    """
    places = [label_places(image) for image in images]
    labels = [next(filter(os.path.isfile, candidates), None) for candidates in places]
    taken = set(labels)
    folders = {place.parent for found, candidates in zip(labels, places) if found is None for place in candidates}
    listings = {folder: {_folded(name): name for name in sorted(list_folder(folder))} for folder in folders}
    for index, candidates in enumerate(places):
        if labels[index] is None:
            matches = (listings[place.parent].get(_folded(place.name)) for place in candidates)
            found = (place.with_name(match) for place, match in zip(candidates, matches) if match)
            labels[index] = next((file for file in found if file not in taken), None)
    return labels


def count_unused_labels(folders: Iterable[Path], used: Collection[Path], repairs: Counter[str]) -> None:
    """Count files of labels in folders of images, and in the folders of their labels, that belong to no image."""
    roots = {place.parent for folder in folders for place in label_places(folder.absolute() / "image")}
    texts = (
        file for root in sorted(roots) if root.is_dir() for file in walk_files(root) if file.suffix.lower() == ".txt"
    )
    unused = list(dict.fromkeys(file for file in texts if file not in used and _has_labels(file)))
    if unused:
        text = f"label files of the split's folders belong to no image, such as {shorten(unused[0].name)}"
        repairs[text] += len(unused)


def _has_labels(file: Path) -> bool:
    """Return whether the first line of a text file is one of labels, unlike that of a list or a readme."""
    try:
        return len(list(map(float, read_lines(file)[0].split()))) > BOX_NUMBERS
    except ValueError:
        return False


def _folded(name: str) -> str:
    return composed(name).casefold()


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file. Raises InputError if it is not UTF-8."""
    try:
        return re.split("\r\n?|\n", read_file(file).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{shorten(file)} cannot be read: {shorten(error)}; expected UTF-8 text") from None


def read_labels(
    file: Path, names: Mapping[int, str], max_numbers: int | None
) -> Iterator[tuple[int, int, list[float]]]:
    """Yield the number of a line, its class and its other numbers; a line that was there already is left out."""
    seen = set()
    for line, text in enumerate(read_lines(file), 1):
        if not text.strip():
            continue
        place = f"{shorten(file)}:{line}"
        try:
            class_id, *numbers = map(float, text.split())
        except ValueError:
            raise InputError(f"{place}: expected numbers, `class cx cy w h` or a polygon: {shorten(text)}") from None
        if not class_id.is_integer() or class_id not in names:
            known = f"0 to {len(names) - 1}" if max(names) == len(names) - 1 else ", ".join(map(str, names))
            raise InputError(f"{place}: class {text.split()[0]:.20} has no name; known: {shorten(known)}")
        numbers = numbers[:max_numbers]
        if len(numbers) != BOX_NUMBERS and (len(numbers) < MIN_POLYGON_NUMBERS or len(numbers) % 2):
            expected = "5 (class cx cy w h), or a class and x y of 3 points or more"
            raise InputError(f"{place}: {len(numbers) + 1} numbers, expected {expected}")
        if (shape := (class_id, *numbers)) not in seen:
            seen.add(shape)
            yield line, int(class_id), numbers
