"""Find out which images the entries of a results file mean, because formats other than COCO's have no image ids."""

import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ..errors import InputError, shorten

Content = Mapping[str, Any]


def match_images(entries: list[dict[str, Any]], content: Content, has_ids: bool, name: str) -> str | None:
    """Make the image ids of results those of the annotations, and check them against the entries' "file_name".

    Without ids in the annotations, images are numbered from 1 in the order of the annotations. Then "file_name" decides
    if all entries have it. Ids that are the numbers in the names of the files, as Ultralytics writes them, are accepted
    if they cannot be positions.

    Args:
        entries: of `read_results`. Their "image_id" is changed in place.
        content: images and categories as `CocoEvaluator` takes them.
        has_ids: whether the image ids are those of the annotation file.
        name: of the results file, for messages.

    Returns:
        A line on what the ids were taken for, or None if that is beyond doubt.

    Raises:
        InputError: a "file_name" does not exist or is that of another image, or the ids have two meanings.
    """
    if has_ids or not all(isinstance(entry.get("file_name"), str) for entry in entries):
        _check_names(entries, content["images"], name)
        return None if has_ids or not entries else _match_numbers(entries, content, name)
    ids = defaultdict(list)
    for image in content["images"]:
        for spelling in {_path(image["file_name"]), PurePosixPath(_path(image["file_name"]).name)}:
            ids[spelling].append(image["id"])
    changed = 0
    for position, entry in enumerate(entries):
        path = _path(entry["file_name"])
        found = ids.get(path) or ids.get(PurePosixPath(path.name), [])
        if len(found) != 1:
            problem = "fits several images" if found else "is not in the annotations"
            raise InputError(f"{shorten(name)}: entry {position}: file_name {shorten(entry['file_name'])!r} {problem}")
        changed += entry.get("image_id") != found[0]
        entry["image_id"] = found[0]
    return (
        f"image_id of {changed} entries stands for another image than file_name, which was taken" if changed else None
    )


def _check_names(entries: Sequence[Mapping], images: Sequence[Mapping], name: str) -> None:
    """Raise InputError if an entry has the name of another file than its image."""
    names = {image["id"]: image["file_name"] for image in images if image.get("file_name") != str(image["id"])}
    for position, entry in _with_id(entries):
        expected, found = names.get(entry["image_id"]), entry.get("file_name")
        if isinstance(expected, str) and isinstance(found, str) and _path(found).stem != _path(expected).stem:
            raise InputError(
                f"{shorten(name)}: entry {position}: image_id {shorten(entry['image_id'])} is {shorten(expected)} in"
                f" the annotations, but file_name is {shorten(found)}; the results belong to other annotations"
            )


def _match_numbers(entries: Sequence[dict], content: Content, name: str) -> str:
    """Take image ids for positions or for the numbers in file names; return a line on it."""
    images, categories = content["images"], content["categories"]
    stems = {_path(image["file_name"]).stem: image["id"] for image in images}
    numbers = {int(stem) if stem.isdecimal() else stem: image_id for stem, image_id in stems.items()}
    found = {entry["image_id"] for _, entry in _with_id(entries)}
    first, last = (f"{image['id']} is {shorten(image['file_name'], 40)}" for image in (images[0], images[-1]))
    if found <= numbers.keys() and len(numbers) == len(images) and any(numbers[key] != key for key in found):
        if found <= {image["id"] for image in images}:
            raise InputError(
                f"{shorten(name)}: image_id may be the position of an image ({first}) or the number in its file name;"
                ' add "file_name" to the entries'
            )
        for _, entry in _with_id(entries):
            entry["image_id"] = numbers[entry["image_id"]]
        return "image_id was taken for the number in the name of the file, because it is not the position of an image"
    category = f"{categories[0]['id']} is {shorten(categories[0].get('name'), 40)}"
    return (
        f"entries have no file_name: image_id counts the images ({first}, {last}), category_id the classes ({category})"
    )


def _with_id(entries: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    return ((index, entry) for index, entry in enumerate(entries) if isinstance(entry.get("image_id"), Hashable))


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
