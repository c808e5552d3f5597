"""Crops of mosaics: boxes lie on the pixels of their objects."""

import json

import numpy as np
from PIL import Image

from detbackbones.benchmarks.mosaic_crops import main

COLOURS = {1: (200, 10, 10), 2: (10, 200, 10), 3: (10, 10, 200)}  # of category ids


def test_boxes_lie_on_the_pixels_of_their_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, annotations = [], []
    for category, colour in COLOURS.items():
        width, height = 300 + 60 * category, 400
        pixels = np.full((height, width, 3), 240, np.uint8)
        x, y, w, h = box = 40 * category, 60, 90, 70 + 10 * category
        pixels[y : y + h, x : x + w] = colour
        Image.fromarray(pixels).save(f"{category}.png")
        images.append({"id": category, "file_name": f"{category}.png", "width": width, "height": height})
        fields = {"id": category, "image_id": category, "category_id": category}
        annotations.append(fields | {"bbox": list(box), "area": w * h, "iscrowd": 0})
    categories = [{"id": category, "name": f"{colour}"} for category, colour in COLOURS.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert main(["a.json", ".", "out=crops", "rounds=2", "crops=60"]) == 0
    written = json.loads((tmp_path / "crops/annotations.json").read_text())
    assert len(written["images"]) == 3 + 2 * 60
    files = {entry["id"]: entry for entry in written["images"]}
    whole = 0
    for entry in written["annotations"]:
        pixels = np.asarray(Image.open(tmp_path / "crops/images" / files[entry["image_id"]]["file_name"]))
        assert pixels.shape[:2] == (files[entry["image_id"]]["height"], files[entry["image_id"]]["width"])
        x, y, width, height = map(int, entry["bbox"])
        assert (pixels[y : y + height, x : x + width] == COLOURS[entry["category_id"]]).all()
        full = 90 * (70 + 10 * entry["category_id"])
        assert entry["iscrowd"] == (width * height < full / 3)
        whole += width * height == full
    assert whole > 5  # also in crops
    assert main(["a.json", "."]) == 2
