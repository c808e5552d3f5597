"""Read a dataset's annotations and check all of it before anything is built.

The checks look at values: ids, sizes, boxes, segmentations and image files. All problems of a file are reported in one
message; what is plain is corrected, and counted.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, shorten
from .coco_json import read_coco
from .formats import read_source, recognise_format
from .image_entries import ImageUse, clean_images
from .image_folder import suggest_path
from .misread import find_misreading
from .objects import AREA_DERIVED, clean_object
from .problems import REPAIRS, SOURCE, Report
from .segmentations import whole_number

Id = int | str
COCO_FORMATS = ("coco", "lvis")
LVIS_KEYS = {"neg_category_ids", "not_exhaustive_category_ids"}
CROWD = (1, "1", "true")
MAX_DIGITS = 30  # of an id as text


@dataclass
class Annotations:
    """The checked annotations of one split.

    Attributes:
        path: the annotation file, or the folder of its annotations.
        image_dir: folder of its images.
        content: images, annotations and categories in COCO's form, as `CocoEvaluator` takes it. Unusable annotations
            are left out.
        category_ids: ids in ascending order; a label is an index into them.
        names: names of the categories, in the same order.
        objects: image id -> its annotations, crowd regions included.
        incomplete: ids of images from which an unusable annotation was left out.
        unreadable: image id -> why its file cannot be read.
        report: what was left out and repaired.
    """

    path: Path
    image_dir: Path
    content: dict
    category_ids: list[Id]
    names: list[str]
    objects: dict[Id, list[dict]] = field(repr=False)
    incomplete: set[Id] = field(repr=False)
    unreadable: dict[Id, str] = field(repr=False)
    report: Report = field(repr=False)

    @property
    def images(self) -> list[dict]:
        """The entries of section "images"."""
        return self.content["images"]


def read_annotations(
    path: Path,
    image_dir: Path | None,
    *,
    format: str | None = None,
    split: str = "train",
    masks: bool | None = True,
    drop_bad_objects: bool = False,
    skip_unreadable: bool = False,
    check_images: bool = True,
    use: ImageUse | None = None,
) -> Annotations:
    """Read and check the annotations of a split, and its images.

    Args:
        path: a COCO file, or what `data.formats` describes for other formats.
        image_dir: folder of the images; None: where the format has it.
        format: "coco", "voc", "yolo", "cvat" or "lvis"; None: recognised.
        split: "train" or "val", for formats whose path holds several splits.
        masks: whether every annotation needs a segmentation; None: if at least one has it.
        drop_bad_objects: leave out unusable annotations and count them. COCO's own train2017 has a few.
        skip_unreadable: allow images that are missing, unreadable or of another size than annotated. They still count
            in an evaluation, unless the file lacks their width or height.
        check_images: look at the image files.
        use: how the images will be used; None: any use.

    Raises:
        InputError: a file or folder does not exist or has another form; ids are missing, doubled or unknown; or an
            annotation or image is unusable, and its key does not leave it out.
    """
    path = Path(path)
    format = format or recognise_format(path)
    content, image_dir = _read_content(path, image_dir, format, split)
    if check_images and image_dir is None:
        raise InputError(f"{shorten(path)} needs image_dir, the folder of its images")
    if check_images and not os.path.isdir(image_dir):  # type: ignore[arg-type]
        raise InputError(f"image folder {shorten(image_dir)} does not exist{suggest_path(image_dir)}")  # type: ignore
    report = Report(path, repairs=content.pop(REPAIRS, Counter()))
    for section in ("images", "categories", "annotations"):
        _clean_ids(content[section], section, report)
    _clean_file_names(content["images"], check_images, report)
    report.raise_problems(allowed=set())
    folder = image_dir if check_images else None
    unreadable = clean_images(content["images"], folder, report, use)
    names = _category_names(content["categories"], report)
    if masks is None:
        masks = any(entry.get("segmentation") for entry in content["annotations"])
    incomplete = _clean_objects(content, names, masks, report)
    if format not in COCO_FORMATS:
        del report.repairs[AREA_DERIVED]  # these formats have no areas
    remedies = {"drop_bad_objects": drop_bad_objects, "skip_unreadable": skip_unreadable}
    report.raise_problems(allowed={key for key, is_set in remedies.items() if is_set})
    objects = defaultdict(list)
    for entry in content["annotations"]:
        objects[entry["image_id"]].append(entry)
    if all(entry["iscrowd"] for entry in content["annotations"]):
        kind = "crowd regions alone" if content["annotations"] else "no annotations"
        report.repairs[f"images with {kind}, so nothing to train on or to score against"] += len(content["images"])
    ids = sorted(names, key=lambda value: (isinstance(value, str), value))
    return Annotations(
        path=path,
        image_dir=image_dir or Path(),
        content=content,
        category_ids=ids,
        names=[names[value] for value in ids],
        objects=dict(objects),
        incomplete=incomplete,
        unreadable=unreadable,
        report=report,
    )


def _read_content(path: Path, image_dir: Path | None, format: str, split: str) -> tuple[dict, Path | None]:
    if format not in COCO_FORMATS:
        content, image_dir = read_source(path, image_dir, format, split)
        if not content["images"]:
            raise InputError(f"{shorten(path)} lists no image of the split {split!r}")
        return content, image_dir
    content = read_coco(path)
    content.pop(REPAIRS, None)  # of somebody else's
    if format == "lvis" and not any(LVIS_KEYS & image.keys() for image in content["images"]):
        raise InputError(f"{path} is not an LVIS file: its images have none of {', '.join(sorted(LVIS_KEYS))}")
    for entry in content["annotations"]:
        entry.pop(SOURCE, None)  # of somebody else's
    return content, image_dir


def _clean_file_names(images: list[dict], are_needed: bool, report: Report) -> None:
    for position, entry in enumerate(images):
        if isinstance(entry.get("coco_url"), str):  # LVIS has no file_name; the folder is train2017 or val2017
            entry.setdefault("file_name", "/".join(entry["coco_url"].split("/")[-2:]))
        if not are_needed:
            entry.setdefault("file_name", str(entry.get("id")))
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            name = f"images[{position}]"
            report.add(name, f"file_name must be text: {shorten(repr(entry.get('file_name')))}")
            entry["file_name"] = name


def _clean_ids(entries: list[dict], section: str, report: Report) -> None:
    """Make ids whole numbers or text, and number annotations without ids. Doubled ids are a problem."""
    counts: Counter[Id] = Counter()
    unnumbered = []
    for position, entry in enumerate(entries):
        value = entry.get("id")
        if type(value) is float:
            value = entry["id"] = whole_number(value) if whole_number(value) is not None else value
        if type(value) in (int, str):
            counts[value] += 1  # type: ignore[index]
        elif value is None and section == "annotations":
            unnumbered.append(entry)
        else:
            report.add(f"{section}[{position}]", f"id must be a whole number or text: {shorten(value)}")
    if len(counts) + len(unnumbered) < len(entries):
        for value, count in counts.items():
            if count > 1:
                report.add(f"{count} entries of {section!r}", f"they have one id: {shorten(value)}")
    if unnumbered:
        last = max((value for value in counts if isinstance(value, int)), default=0)
        for number, entry in enumerate(unnumbered, last + 1):
            entry["id"] = number
        report.repairs["annotations without an id were numbered"] += len(unnumbered)


def _category_names(categories: list[dict], report: Report) -> dict[Id, str]:
    """Return the names by id, without blanks around them and in composed Unicode form, so that they can be compared."""
    names = {
        entry["id"]: unicodedata.normalize("NFC", str(entry.get("name", entry["id"])).strip()) for entry in categories
    }
    for name, count in Counter(names.values()).items():
        if count > 1:
            report.repairs[f"categories have the same name {shorten(name)!r}; they stay different classes"] += count
    return names


def _clean_objects(content: dict, names: Mapping[Id, str], masks: bool, report: Report) -> set[Id]:
    """Check the annotations, leave out the unusable ones, and return the ids of the images that had such."""
    images = {image["id"]: image for image in content["images"]}
    incomplete, usable = set(), []
    for entry in content["annotations"]:
        image = _look_up(images, entry, "image_id")
        category = _look_up(names, entry, "category_id")
        if image is not None and category is not None and image["width"] and image["height"]:
            usable.append(entry)
        elif image is None:
            report.add(_name(entry), f"image_id is not in 'images': {shorten(entry.get('image_id'))}")
        elif category is None:
            known = shorten(", ".join(map(str, sorted(names, key=str))))
            report.add(
                _name(entry), f"category_id is not in 'categories': {shorten(entry.get('category_id'))}; known: {known}"
            )
    sizes = [(images[entry["image_id"]]["height"], images[entry["image_id"]]["width"]) for entry in usable]
    segmentations = [None if entry.get("iscrowd") in CROWD else entry.get("segmentation") for entry in usable]
    misread = find_misreading([entry.get("bbox") for entry in usable], segmentations, sizes, masks)
    if misread is not None:
        raise InputError(f"{report.path}: {misread}")
    content["annotations"] = []
    for entry in usable:
        image = images[entry["image_id"]]
        try:
            clean_object(entry, image["height"], image["width"], masks, report.repairs)
            content["annotations"].append(entry)
        except (ValueError, OverflowError) as error:
            incomplete.add(entry["image_id"])
            report.add(f"{_name(entry)} (image {shorten(image['id'])})", str(error), "drop_bad_objects")
    content["images"] = [image for image in content["images"] if image["width"] and image["height"]]
    return incomplete


def _look_up(known: Mapping[Id, Any], entry: dict, key: str) -> Any:
    """Return what an id of an entry stands for, None if it is unknown; it may be 3.0 or "3" where the other is 3."""
    value = entry.get(key)
    if type(value) is int and value in known:
        return known[value]
    spellings: list[Any] = [value, whole_number(value)] if type(value) in (float, str) else []
    if isinstance(value, str) and value.isdecimal() and len(value) < MAX_DIGITS:
        spellings.append(int(value))
    if type(value) is int:
        spellings.append(str(value))
    for spelling in spellings:
        if type(spelling) in (int, str) and spelling in known:
            entry[key] = spelling
            return known[spelling]
    return None


def _name(entry: dict) -> str:
    return entry.get(SOURCE) or f"annotation {shorten(entry['id'], 40)}"
