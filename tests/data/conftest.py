import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_coco(tmp_path):
    """A function that writes two images with an object and a crowd region, after a change of the annotation file.

    It returns the paths of the annotation file and of the image folder.
    """
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(pixels).save(folder / name)
    dog = {"id": 1, "image_id": 9, "category_id": 30, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0}
    cats = {"id": 2, "image_id": 9, "category_id": 4, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1}
    content = {
        "images": [
            {"id": 5, "file_name": "a.jpg", "width": 60, "height": 40},
            {"id": 9, "file_name": "b.jpg", "width": 60, "height": 40},
        ],
        "categories": [{"id": 30, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            dog | {"segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]},
            cats | {"segmentation": {"counts": [0, 5, 35, 5, 2355], "size": [40, 60]}},
        ],
    }

    def write(change=lambda content: None):
        change(content)
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return tmp_path / "instances.json", folder

    return write
