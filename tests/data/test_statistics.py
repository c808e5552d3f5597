import json

import numpy as np
import pytest
import torch

from detbackbones import InputError
from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset
from detbackbones.data.statistics import channel_statistics


@pytest.fixture
def dataset(tmp_path):
    """Three images of four channels, the last of which is constant."""
    random = np.random.default_rng(0)
    images = []
    for number in range(3):
        pixels = random.integers(0, 50 * (number + 1), (20 + number, 30, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        np.save(tmp_path / f"{number}.npy", pixels)
        images.append({"id": number, "file_name": f"{number}.npy", "width": 30, "height": 20 + number})
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return CocoDataset(read_annotations(tmp_path / "a.json", tmp_path, masks=False), training=True, channels=4)


def test_they_equal_torch_over_all_pixels(dataset):
    pixels = torch.cat([dataset.read(index).flatten(1) for index in range(3)], dim=1).double() / 255
    mean, std = channel_statistics(dataset)
    assert mean == pytest.approx(pixels.mean(1).tolist(), abs=1e-6)
    assert std[:3] == pytest.approx(pixels.std(1, correction=0).tolist()[:3], abs=1e-6)
    assert std[3] == pytest.approx(1 / 255, abs=1e-6)  # a constant channel must not be divided by zero


def test_the_images_are_spread_over_the_dataset(dataset):
    pixels = torch.cat([dataset.read(index).flatten(1) for index in (0, 2)], dim=1).double() / 255
    assert channel_statistics(dataset, max_images=2)[0] == pytest.approx(pixels.mean(1).tolist(), abs=1e-6)


def test_unreadable_images_are_left_out(dataset):
    folder = dataset.annotations.image_dir
    expected = channel_statistics(dataset, max_images=1)
    for name in ("1.npy", "2.npy"):
        (folder / name).unlink()
    assert channel_statistics(dataset) == expected
    (folder / "0.npy").unlink()
    with pytest.raises(InputError, match="none of 3 images can be read"):
        channel_statistics(dataset)
