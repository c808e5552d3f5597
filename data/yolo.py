"""Read YOLO: `data.yaml`, folders of images, and one text file of labels per image."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, shorten
from .files import read_file, walk_files
from .image_entries import displayed_size
from .image_files import read_headers
from .image_folder import suggest_path
from .image_listing import is_image
from .problems import REPAIRS, SOURCE
from .yolo_labels import BOX_NUMBERS, count_unused_labels, find_labels, label_places, read_labels, read_lines

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation")}  # split -> keys of data.yaml, and folders
CLASS_FILES = ("classes.txt", "labels/classes.txt")
YAML_SUFFIXES = (".yaml", ".yml")


def read_yolo(path: Path, image_dir: Path | None, split: str) -> tuple[dict, Path]:
    """Read the annotations of a split.

    A line of a label file is `class cx cy w h`, or a polygon `class x1 y1 x2 y2 x3 y3 ...`, in fractions of the
    displayed image (after EXIF's orientation); the box of a polygon is its extent. A line that repeats another one is
    left out, as by Ultralytics. An image without a label file, or with an empty one, has no objects. The label file of
    `images/a/b.jpg` is `labels/a/b.txt` (the last folder with the name `images` counts), or lies beside the image; its
    name may have another Unicode form or other capitals. Label files in the folders of a split that belong to no image
    are counted. A .npy file beside an image of its name is Ultralytics' cache of it, and not read. If the YAML file has
    `kpt_shape`, key points are not read.

    Args:
        path: data.yaml, or a folder with one; or a folder with images/<split>, labels/<split> and classes.txt. The
            paths in the YAML file are relative to its `path`, to its own folder or to the working directory; a leading
            "../" that leads nowhere is ignored. They name folders, which are searched with their subfolders, or .txt
            files with one image per line.
        image_dir: folder of images to use instead of the split's.
        split: "train", or "val" (also found as "valid" and "validation").

    Returns:
        Content in COCO's form, values unchecked, and the folder of the images. An image without a readable header has
        no size and no annotations.

    Raises:
        InputError: a file does not exist or has another form.
    """
    file = _find_yaml(path)
    settings = {} if file is None else _read_yaml(file)
    names = _read_class_file(path) if file is None else _class_names(settings, file)
    roots: list[Path] = []
    if image_dir is not None:
        if not os.path.isdir(image_dir):
            raise InputError(f"image folder {shorten(image_dir)} does not exist{suggest_path(image_dir)}")
        places = [image_dir]
    elif file is None:
        places = [_split_folder(path, split)]
    else:
        places, roots = _places_of_split(settings, file, split)
    folders = [place for place in places if place.is_dir()]
    images = list(dict.fromkeys(image for place in places for image in _images_at(place, roots)))
    repairs: Counter[str] = Counter()
    images = _without_twins(images, repairs)
    labels = find_labels(images)
    if not any(map(os.path.isfile, images)):
        found = f"not one of {len(images)} listed images exists, such as {shorten(images[0], 200)}"
        raise InputError(f"{shorten(path)}: {found}; correct the paths in the list, or set image_dir")
    if not any(labels):
        raise InputError(
            f"{shorten(path)}: not one of {len(images)} images has a label file, such as "
            f"{shorten(label_places(images[0])[0], 200)}; expected one .txt file per image with objects"
        )
    folder = image_dir or Path(os.path.commonpath([image.parent for image in images]))
    count_unused_labels(folders, set(filter(None, labels)), repairs)
    content: dict = {"images": [], "annotations": [], REPAIRS: repairs}
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    max_numbers = BOX_NUMBERS if "kpt_shape" in settings else None
    for image_id, (image, label, header) in enumerate(zip(images, labels, read_headers(images), strict=True), 1):
        entry: dict[str, Any] = {"id": image_id, "file_name": os.path.relpath(image, folder)}
        content["images"].append(entry)
        if header.problem is not None:
            continue
        entry["width"], entry["height"] = size = displayed_size(header)
        for line, class_id, numbers in read_labels(label, names, max_numbers) if label else ():
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": class_id}
            source = f"{label.parent.name}/{label.name}:{line}" if label else ""
            content["annotations"].append(annotation | _shape(numbers, *size) | {"iscrowd": 0, SOURCE: source})
    return content, folder


def _find_yaml(path: Path) -> Path | None:
    """Return the YAML file of a dataset, None for a folder without one."""
    if not path.is_dir():
        return path
    files = sorted(file for file in path.glob("*.y*ml") if file.suffix in YAML_SUFFIXES)
    usual = [file for file in files if file.stem == "data"]
    if len(files) > 1 and len(usual) != 1:
        found = ", ".join(file.name for file in files)
        raise InputError(f"folder {shorten(path)} has {len(files)} YAML files: {shorten(found)}; name one of them")
    return (usual or files)[0] if files else None


def _read_yaml(file: Path) -> dict:
    try:
        data = read_file(file)
        settings = yaml.safe_load(data)
        texts = yaml.load(data, Loader=yaml.BaseLoader)  # makes text alone
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise InputError(f"{shorten(file)} is not YAML: {shorten(error, 200)}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{shorten(file)} has a {type(settings).__name__}, expected keys such as train, val and names")
    return settings | ({"names": texts["names"]} if "names" in texts else {})  # "no" is a name, not False


def _class_names(settings: Mapping, file: Path) -> dict[int, str]:
    names, count = settings.get("names"), settings.get("nc")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or any(isinstance(name, (list, dict)) for name in names.values()):
        raise InputError(f"{shorten(file)}: names must be a list of class names, or class number: name")
    if set(map(str, names)) != set(map(str, range(len(names)))):
        keys = f"0 to {len(names) - 1}"
        raise InputError(f"{shorten(file)}: names must have the keys {keys}: [{shorten(', '.join(map(str, names)))}]")
    if count is not None and count != len(names):
        raise InputError(
            f"{shorten(file)}: nc is {shorten(repr(count))}, but there are {len(names)} names; correct one of them"
        )
    return {int(number): str(name) for number, name in names.items()}


def _read_class_file(folder: Path) -> dict[int, str]:
    for file in (folder / name for name in CLASS_FILES):
        names = "\n".join(map(str.strip, read_lines(file))).rstrip().split("\n") if file.is_file() else [""]
        if not any(names):
            continue
        if "" in names:
            line = names.index("") + 1
            raise InputError(
                f"{shorten(file)}:{line} is blank, expected the name of class {line - 1}; fill or remove it"
            )
        return dict(enumerate(names))
    raise InputError(f"folder {shorten(folder)} has neither a .yaml file nor a classes.txt with the names of classes")


def _split_folder(folder: Path, split: str) -> Path:
    for name in SPLITS[split]:
        if (folder / "images" / name).is_dir():
            return folder / "images" / name
    raise InputError(f"folder {shorten(folder / 'images' / split)} does not exist; create it or set image_dir")


def _places_of_split(settings: Mapping, file: Path, split: str) -> tuple[list[Path], list[Path]]:
    """Return the folders and lists of a split, and the folders that their paths may be relative to."""
    key = next((key for key in SPLITS[split] if settings.get(key)), None)
    if key is None:
        raise InputError(
            f"{shorten(file)} has no key {split!r}; expected a folder or a list of images, or set image_dir"
        )
    entries = settings[key] if isinstance(settings[key], list) else [settings[key]]
    root = settings.get("path") or "."
    if not all(isinstance(entry, str) for entry in (root, *entries)):
        raise InputError(f"{shorten(file)}: path and {key} must be text or a list of texts")
    roots = [file.parent / root.replace("\\", "/"), Path(root), file.parent]
    return [_resolve(entry.replace("\\", "/"), roots, f"{shorten(file)}: {key}") for entry in entries], roots


def _resolve(entry: str, roots: Sequence[Path], name: str) -> Path:
    """Return the path that exists for an entry; Roboflow writes "../train/images" for "train/images"."""
    for root in roots:
        for spelling in (entry, entry.removeprefix("../")):
            if os.path.exists(root / spelling):
                return root / spelling
    raise InputError(f"{name} {shorten(roots[0] / entry)} does not exist{suggest_path(roots[0] / entry)}")


def _images_at(place: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the images below a folder, or those listed in a text file, as absolute paths."""
    if place.is_dir():
        images = sorted(filter(is_image, walk_files(place.absolute())))
    elif place.suffix == ".txt":
        lines = filter(None, map(str.strip, read_lines(place)))
        images = [_listed_image(line.replace("\\", "/"), [place.parent, *roots, Path()]) for line in lines]
    else:
        raise InputError(f"{shorten(place)} must be a folder of images or a .txt list of them")
    if not images:
        raise InputError(f"{shorten(place)} has no image; expected files that Pillow reads, or .npy")
    return images


def _listed_image(line: str, roots: Sequence[Path]) -> Path:
    """Return the image that a line names, in the first folder if it exists in none."""
    found = next((root / line for root in roots if os.path.isfile(root / line)), roots[0] / line)
    return Path(os.path.abspath(found))


def _without_twins(images: Sequence[Path], repairs: Counter[str]) -> list[Path]:
    """Leave out .npy files beside an image of the same name, and count images that share their label file."""
    counts = Counter(image.parent / image.stem for image in images if image.suffix.lower() != ".npy")
    kept = [image for image in images if image.suffix.lower() != ".npy" or not counts[image.parent / image.stem]]
    if len(kept) < len(images):
        repairs[".npy files beside an image of the same name were not read"] += len(images) - len(kept)
    if shared := sum(count for count in counts.values() if count > 1):
        repairs["images share their label file, and so its objects, with an image of the same name"] += shared
    return kept


def _shape(numbers: Sequence[float], width: int, height: int) -> dict[str, list]:
    """Return the box, and the segmentation of a polygon, in pixels."""
    if len(numbers) == BOX_NUMBERS:
        x, y, box_width, box_height = numbers
        box = [(x - box_width / 2) * width, (y - box_height / 2) * height, box_width * width, box_height * height]
        return {"bbox": box}
    polygon = [number * side for number, side in zip(numbers, [width, height] * (len(numbers) // 2), strict=True)]
    xs, ys = polygon[0::2], polygon[1::2]
    return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "segmentation": [polygon]}
