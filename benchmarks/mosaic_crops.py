"""Write a dataset of crops of mosaics, for a detector that is measured on a mosaic (`benchmarks.prediction tiles`).

    python -m detbackbones.benchmarks.mosaic_crops ANNOTATIONS [IMAGES] out=FOLDER [rounds=50] [crops=6] [seed=0]

In each round the images, in random order, are put on mosaics of 2000 x 1500 pixels, side by side or 64 pixels apart,
and `crops` windows of 640 x 480 or 480 x 640 pixels are cut from each mosaic. FOLDER gets `images/` and
`annotations.json`: the images themselves, and the crops with their clipped boxes. Objects that are less than a third
inside are crowd regions, which are neither objects nor background.
"""

import functools
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from detbackbones.benchmarks.prediction import make_mosaics
from detbackbones.data.annotations import Annotations, read_annotations
from detbackbones.data.images import read_image
from detbackbones.errors import InputError
from detbackbones.tools.cli import run_command

SIZE = 2000, 1500
WINDOWS = (640, 480), (640, 480), (480, 640)
GAPS = 0, 0, 0, 64
SHOWN, IGNORED = 1 / 3, 0.1  # share of an object in a window, from which it is one, or a crowd region

Box = tuple[Sequence[float], Mapping[str, Any]]  # x, y, width, height, and the annotation


def make_crops(annotations: Annotations, crops: int, generator: random.Random) -> Iterator[tuple[Tensor, list[Box]]]:
    """Yield crops C x H x W of mosaics of all images in random order, with their boxes."""
    order = generator.sample(annotations.images, len(annotations.images))
    shuffled = replace(annotations, content={**annotations.content, "images": order})
    for mosaic, places in make_mosaics(shuffled, SIZE, generator.choice(GAPS)):
        objects = [(entry, x, y) for image, x, y in places for entry in annotations.objects.get(image["id"], [])]
        for _ in range(crops):
            width, height = generator.choice(WINDOWS)
            left, top = generator.randrange(SIZE[0] - width), generator.randrange(SIZE[1] - height)
            boxes = []
            for entry, x, y in objects:
                box_left, box_top, box_width, box_height = entry["bbox"]
                x1, y1 = max(box_left + x - left, 0), max(box_top + y - top, 0)
                x2, y2 = min(box_left + box_width + x - left, width), min(box_top + box_height + y - top, height)
                shown = max(x2 - x1, 0) * max(y2 - y1, 0) / (box_width * box_height)
                if shown > IGNORED:
                    crowd = int(entry.get("iscrowd", 0) or shown < SHOWN)
                    boxes.append(((x1, y1, x2 - x1, y2 - y1), entry | {"iscrowd": crowd}))
            yield mosaic[:, top : top + height, left : left + width], boxes


def write(names: Sequence[str], values: Mapping[str, Any]) -> None:
    """Write the dataset."""
    if len(names) not in (1, 2) or "out" not in values:
        raise InputError("expected ANNOTATIONS, perhaps IMAGES, and out=FOLDER")
    annotations = read_annotations(
        Path(names[0]), Path(names[1]) if len(names) == 2 else None, masks=None, drop_bad_objects=True
    )
    out, generator = Path(values["out"]), random.Random(values.get("seed", 0))
    (out / "images").mkdir(parents=True)
    items: list[tuple[Tensor, list[Box]]] = []
    for image in annotations.images:
        pixels = read_image(annotations.image_dir / image["file_name"], 3, None, image.get("exif_orientation", 1))
        items.append((pixels, [(entry["bbox"], entry) for entry in annotations.objects.get(image["id"], [])]))
    for _ in range(values.get("rounds", 50)):
        items += make_crops(annotations, values.get("crops", 6), generator)
    images, objects = [], []
    for number, (pixels, boxes) in enumerate(items, 1):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(out / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": pixels.shape[1], "width": pixels.shape[2]})
        for (x, y, width, height), entry in boxes:
            place = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": entry["iscrowd"]}
            labels = {"id": len(objects) + 1, "image_id": number, "category_id": entry["category_id"]}
            objects.append(labels | place)
    content = {"images": images, "annotations": objects, "categories": annotations.content["categories"]}
    (out / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    print(f"{len(images)} images with {len(objects)} objects -> {out}")


main = functools.partial(run_command, write, __doc__)


if __name__ == "__main__":
    sys.exit(main())
