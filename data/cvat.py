"""Read CVAT's own format, "CVAT for images 1.1": one XML file for all images.

hotcoco's reader loses masks, rotations and the images' subsets.
"""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ..errors import InputError, did_you_mean, shorten
from .image_folder import ImageFolder
from .objects import rotated_box
from .problems import SOURCE
from .xml_files import as_number, read_xml

SUBSETS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
IGNORED = ("tag", "attribute")  # of the image, not of an object
MAX_MASK_PIXELS = 2**28


def read_cvat(path: Path, image_dir: Path | None, split: str) -> tuple[dict, Path]:
    """Read the annotations of a split.

    Boxes, polygons and masks are read. A rotated box becomes the box around it. Other shapes (polylines, points,
    ellipses, cuboids, skeletons) get no box, so that the check of the annotations reports them, and the key
    `drop_bad_objects` leaves them out. Classes are numbered in the order of the task's labels.

    Args:
        path: the XML file, or a folder with annotations.xml.
        image_dir: folder of the images; None: `images` beside the XML file, else its folder.
        split: "train" or "val". It matters if the images belong to several subsets and one of them has its name.

    Returns:
        Content in COCO's form, values unchecked, and the folder of the images.

    Raises:
        InputError: the file does not exist or has another form.
    """
    file = path / "annotations.xml" if path.is_dir() else path
    root = read_xml(file)
    if root.tag != "annotations" or (root.find("track") is not None and root.find("image") is None):
        found = "tracks of a video" if root.tag == "annotations" else f"the root <{shorten(root.tag)}>"
        raise InputError(f"{shorten(file)} has {found}, expected <image>; export it as 'CVAT for images 1.1'")
    if image_dir is None:
        image_dir = file.parent / "images" if (file.parent / "images").is_dir() else file.parent
    labels = [label for label in root.iterfind("meta//label") if label.find("parent") is None]  # not of a skeleton
    names = dict.fromkeys(label.findtext("name", "").strip() for label in labels)
    numbers = {name: number for number, name in enumerate(filter(None, names), 1)}
    if not numbers:
        raise InputError(f"{shorten(file)} has no <label> with a <name> in <meta>; export it again")
    folder = ImageFolder(image_dir)
    content: dict = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    for image_id, element in enumerate(_images_of_split(root, file, split), 1):
        image = _image(element, folder)
        content["images"].append(image | {"id": image_id})
        shapes = (shape for shape in element if shape.tag not in IGNORED)
        for position, shape in enumerate(shapes, 1):
            source = f"{shorten(image['file_name'], 40)} {shape.tag} {position}"
            label = shape.get("label", "").strip()
            if label not in numbers:
                hint = shorten(did_you_mean(label[:300], numbers), 200)
                raise InputError(f"{shorten(file)}: {source}: label {shorten(label)!r} is not in <meta>; {hint}")
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": numbers[label]}
            try:
                annotation |= _shape(shape, image)
            except (KeyError, ValueError, OverflowError) as error:
                reason = f"attribute {error} is missing" if isinstance(error, KeyError) else error
                raise InputError(f"{shorten(file)}: {source}: {shorten(reason)}; export it again") from None
            content["annotations"].append(annotation | {"iscrowd": 0, SOURCE: f"{file.name}: {source}"})
    return content, image_dir


def _images_of_split(root: Element, file: Path, split: str) -> list[Element]:
    """Return the images of the subset that has the split's name, all of them if no subset has one of the names."""
    images = root.findall("image")
    subsets = {element.get("subset", "").lower() for element in images}
    if len(subsets) > 1 and any(name in subsets for names in SUBSETS.values() for name in names):
        images = [element for element in images if element.get("subset", "").lower() in SUBSETS[split]]
    if not images:
        found = ", ".join(sorted(subsets)) or "no <image>"
        raise InputError(
            f"{shorten(file)} has no image of the split {split!r}, but {shorten(found)}; name another file"
        )
    return images


def _image(element: Element, folder: ImageFolder) -> dict[str, Any]:
    name = element.get("name", "")
    subset = element.get("subset")
    found = (subset and folder.find(f"{subset}/{name}")) or folder.find(name)
    size = {key: as_number(element.get(key)) for key in ("width", "height")}
    return {"file_name": found or name} | (size if all(size.values()) else {})


def _shape(shape: Element, image: dict[str, Any]) -> dict[str, Any]:
    """Return the box of a shape, and its segmentation if it is a polygon or a mask."""
    if shape.tag == "box":
        return {"bbox": _box(shape)}
    if shape.tag == "polygon":
        points = [float(value) for point in shape.attrib["points"].split(";") for value in point.split(",")]
        if len(points) % 2:
            raise ValueError("points must be x,y;x,y;...")
        xs, ys = points[0::2], points[1::2]
        return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "segmentation": [points]}
    if shape.tag == "mask":
        return _mask(shape, image)
    return {"bbox": f"a {shape.tag} has none"}


def _box(shape: Element) -> list[float]:
    left, top, right, bottom = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    return rotated_box([left, top, right - left, bottom - top], float(shape.get("rotation", 0)))


def _mask(shape: Element, image: dict[str, Any]) -> dict[str, Any]:
    """Convert runs over the rows of a part of the image, the first of background, to an RLE of the image."""
    left, top, width, height = (int(float(shape.attrib[key])) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    sides = image.get("width"), image.get("height")
    if not all(isinstance(side, float) and side.is_integer() for side in sides):
        raise ValueError("a mask needs width and height of its <image>")
    image_width, image_height = map(int, sides)  # type: ignore[arg-type]
    if min(left, top) < 0 or left + width > image_width or top + height > image_height:
        raise ValueError(f"mask leaves its image of {image_width}x{image_height}")
    if min(runs) < 0 or sum(runs) != width * height or width * height > MAX_MASK_PIXELS:
        raise ValueError(f"rle must add up to width x height, {width} x {height} and at most {MAX_MASK_PIXELS} pixels")
    crop = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    columns, rows = np.nonzero(crop.T)
    if not len(rows):
        return {"bbox": [left, top, 0, 0]}
    pixels = (columns + left) * image_height + rows + top  # positions in the image, column by column
    counts = _runs(pixels, image_width * image_height)
    box = [left + columns.min(), top + rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    segmentation = {"size": [image_height, image_width], "counts": counts}
    return {"bbox": [int(value) for value in box], "segmentation": segmentation}


def _runs(pixels: np.ndarray, total: int) -> list[int]:
    """Return the lengths of alternate runs of background and foreground, given the ascending foreground positions."""
    breaks = np.flatnonzero(np.diff(pixels) > 1)
    starts = pixels[np.concatenate([[0], breaks + 1])]
    ends = pixels[np.concatenate([breaks, [-1]])] + 1
    edges = np.stack([starts, ends], axis=1).ravel()
    return np.diff(np.concatenate([[0], edges, [total]])).tolist()
