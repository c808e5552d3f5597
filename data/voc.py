"""Read Pascal VOC: one XML file per image in `Annotations`, images in `JPEGImages`, splits in `ImageSets`."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import Element

from ..errors import InputError, did_you_mean, shorten
from .files import walk_files
from .image_folder import ImageFolder, composed, suggest_path
from .image_listing import is_image
from .problems import REPAIRS, SOURCE
from .xml_files import as_number, read_xml

IMAGE_FOLDERS = ("JPEGImages", "images")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = {"0": 0, "1": 1}  # any other text is left to the check of the annotations


def read_voc(path: Path, image_dir: Path | None, split: str) -> tuple[dict, Path]:
    """Read the annotations of a split.

    VOC counts pixels from 1 and includes the last one: xmin = 1, xmax = 10 becomes x = 0, width = 10. A box with equal
    or swapped corners has no area. Difficult objects become crowd regions: they are not learned, and to find them
    counts neither as right nor as wrong, as in VOC's evaluation. Classes are numbered in the order of their names over
    all XML files of the folder, so that splits agree. Parts of objects are not read. If an XML file names another image
    than that with its own name, as a copied file does, its own name counts.

    Args:
        path: the dataset's folder, whose split is listed in ImageSets/Main/<split>.txt; another list of images
            (names of XML files without suffix, one per line; lines that end with -1 are left out); or a folder of XML
            files, all of which are read.
        image_dir: folder of the images; None: JPEGImages or images beside the folder of XML files, else that folder.
        split: "train" or "val".

    Returns:
        Content in COCO's form, values unchecked, and the folder of the images.

    Raises:
        InputError: a file does not exist or has another form.
    """
    listing, folder = _locate(path, split)
    found = sorted(file for file in walk_files(folder) if file.suffix.lower() == ".xml")
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}
    if not files:
        raise InputError(f"folder {shorten(folder)} has no XML file; expected one per image")
    if image_dir is None:
        beside = (folder.parent / name for name in IMAGE_FOLDERS)
        image_dir = next((candidate for candidate in beside if candidate.is_dir()), folder)
    roots = {name: _read_root(file) for name, file in files.items()}
    classes = sorted({_class_name(entry, source) for name in roots for entry, source in _objects(roots[name], name)})
    numbers = {name: number for number, name in enumerate(classes, 1)}
    listed = list(files) if listing is None else list(dict.fromkeys(_read_listing(listing, files)))
    repairs: Counter[str] = Counter()
    find_image = _ImageFinder(image_dir, repairs)
    content: dict = {"images": [], "annotations": [], "categories": [{"id": numbers[n], "name": n} for n in classes]}
    content[REPAIRS] = repairs
    for image_id, name in enumerate(listed, 1):
        root = roots[name]
        size = {key: as_number(root.findtext(f"size/{key}")) for key in ("width", "height")}
        image = {"id": image_id, "file_name": find_image(root.findtext("filename"), name)}
        content["images"].append(image | size if all(size.values()) else image)
        for entry, source in _objects(root, name):
            difficult = (entry.findtext("difficult") or "0").strip()
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": numbers[_class_name(entry, source)],
                    "bbox": _box(entry),
                    "iscrowd": FLAGS.get(difficult, difficult),
                    "attributes": _attributes(entry),
                    SOURCE: f"{folder.name}/{source}",
                }
            )
    return content, image_dir


class _ImageFinder:
    """Finds the image of an XML file: the one with its own name, else the file that it names."""

    def __init__(self, folder: Path, repairs: Counter[str]):
        self._path, self._repairs = folder, repairs
        self._folder = ImageFolder(folder)

    def __call__(self, file_name: str | None, name: str) -> str:
        named = (file_name or "").strip()
        beside = os.path.join(os.path.dirname(name), named)  # in the folder of the XML file
        found = (named and (self._folder.find(beside) or self._folder.find(named))) or ""
        if found and composed(os.path.splitext(found)[0]) == composed(name):
            return found
        own = self._by_stem.get(composed(name), [])
        own = [image for image in own if not image.endswith(".npy")] or own  # Ultralytics' cache of an image
        if len(own) > 1:
            raise InputError(
                f"{shorten(name)}.xml may belong to {shorten(' or '.join(own))} in {shorten(self._path)}; name one of"
                f" them in <filename>: {shorten(named)!r}"
            )
        if own and found:
            self._repairs["XML files name another image than the one with their own name, which was taken"] += 1
        return own[0] if own else found or named or f"{name}.jpg"

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        images = defaultdict(list)
        for file in sorted(filter(is_image, walk_files(self._path))):
            name = file.relative_to(self._path)
            images[composed(name.with_suffix("").as_posix())].append(name.as_posix())
        return images


def _locate(path: Path, split: str) -> tuple[Path | None, Path]:
    """Return the list of images, None for all, and the folder of the XML files."""
    if path.is_dir() and not (path / "ImageSets").is_dir() and not (path / "Annotations").is_dir():
        return None, path
    listing = path / "ImageSets" / "Main" / f"{split}.txt" if path.is_dir() else path
    if not os.path.isfile(listing):
        raise InputError(f"list of images {shorten(listing)} does not exist{suggest_path(listing)}")
    for parent in listing.absolute().parents[:3]:
        if (parent / "Annotations").is_dir():
            return listing, parent / "Annotations"
    raise InputError(
        f"{shorten(listing)}: no folder Annotations beside ImageSets; expected one XML file per image in it"
    )


def _read_root(file: Path) -> Element:
    root = read_xml(file)
    if root.tag != "annotation":
        raise InputError(f"{shorten(file)} has the root <{shorten(root.tag)}>, expected <annotation>; move it away")
    return root


def _objects(root: Element, name: str) -> Iterator[tuple[Element, str]]:
    """Yield the objects of an XML file with their names in messages."""
    for position, entry in enumerate(root.iterfind("object"), 1):
        yield entry, f"{name}.xml object {position}"


def _class_name(entry: Element, source: str) -> str:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{shorten(source)} has no class; expected <name> with text")
    return unicodedata.normalize("NFC", name)


def _attributes(entry: Element) -> dict[str, str | None]:
    """Return the attributes that CVAT exports, such as the rotation of a box."""
    return {(item.findtext("name") or ""): item.findtext("value") for item in entry.iterfind("attributes/attribute")}


def _box(entry: Element) -> list:
    """Return [x, y, width, height], or the corners as they stand if one of them is not a number."""
    corners = [as_number(entry.findtext(f"bndbox/{key}")) for key in CORNERS]
    numbers = [corner for corner in corners if isinstance(corner, float)]
    if len(numbers) < len(corners):
        return corners
    left, top, right, bottom = numbers
    if max(numbers) <= 1:  # normalised, which the check of the annotations reports
        return [left, top, right - left, bottom - top]
    return [left - 1, top - 1, _extent(left, right), _extent(top, bottom)]


def _extent(first: float, last: float) -> float:
    return last - first + (last > first)


def _read_listing(listing: Path, known: Collection[str]) -> Iterable[str]:
    """Yield the names of the listed XML files."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{shorten(listing)} cannot be read: {shorten(error)}") from None
    names = {composed(name): name for name in known}
    stems = defaultdict(list)
    for name in known:
        stems[composed(os.path.basename(name))].append(name)
    for number, line in enumerate(map(str.strip, lines), 1):
        name, flag = line, ""
        if composed(line) not in names and (flagged := re.fullmatch(r"(.*\S)\s+(-1|0|1)", line)):
            name, flag = flagged.groups()
        if not name or flag == "-1":
            continue
        name = composed(name.strip().replace("\\", "/"))
        stem = os.path.splitext(name)[0]
        exact = [names[spelling] for spelling in (name, stem) if spelling in names]
        found = exact[:1] or stems.get(os.path.basename(stem), [])
        if len(found) > 1:
            both = shorten(" or ".join(found))
            raise InputError(f"{shorten(listing)}:{number}: {shorten(name)} may be {both}; name it with its folder")
        if not found:
            hint = did_you_mean(stem[:300], list(stems)[:1000])
            place = f"{shorten(listing)}:{number}"
            raise InputError(f"{place}: no annotation {shorten(stem)}.xml in Annotations; {shorten(hint, 200)}")
        yield found[0]
