"""Batches of images of one size: bounded in images and pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_error
from PIL import Image, ImageOps

from detbackbones.data import image_batches
from detbackbones.data.image_batches import Item, make_batches, make_items


def items(*sizes):
    return [Item(Path(str(index)), Path(), size, 1) for index, size in enumerate(sizes)]


def save(path, width=30, height=20, **options) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_every_image_comes_once_in_batches_of_one_size():
    found = list(make_batches(items(*[(20, 30), (30, 20), (20, 30)] * 3), batch_size=4))
    assert [len(batch) for batch in found] == [4, 2, 3]
    assert all(len({item.size for item in batch}) == 1 for batch in found)
    assert len({item.name for batch in found for item in batch}) == 9


@pytest.mark.parametrize("size,expected", [((10, 10), [4, 4]), ((10, 20), [2] * 4), ((100, 100), [1] * 8)])
def test_a_batch_has_a_bounded_number_of_pixels(monkeypatch, size, expected):
    monkeypatch.setattr(image_batches, "MAX_BATCH_PIXELS", 400)
    assert [len(batch) for batch in make_batches(items(*[size] * 8), batch_size=8)] == expected


@pytest.mark.parametrize("short_side,advice", [(None, "set short_side="), (40, "a smaller short_side=")])
def test_an_image_has_a_bounded_number_of_pixels(tmp_path, monkeypatch, short_side, advice):
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(image_batches, "MAX_PIXELS", 599)
    with input_error("a.png", "megapixels", advice):
        make_items({Path("a"): path}, short_side, 3)
    assert make_items({Path("a"): path}, 10, 3)[0][0].size == (10, 15)


def test_the_size_of_a_strip_is_bounded(tmp_path):
    (item,), _ = make_items({Path("a"): save(tmp_path / "a.png", width=2000, height=1)}, 800, 3)
    assert item.size[0] * item.size[1] <= 10 * 800**2


@pytest.mark.parametrize("orientation,size", [(1, (20, 30)), (3, (20, 30)), (6, (30, 20))])
def test_exif_orientation_is_applied(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", exif=exif)
    (item,), _ = make_items({Path("a"): path}, None, 3)
    assert item.size == size
    expected = torch.from_numpy(np.array(ImageOps.exif_transpose(Image.open(path)))).permute(2, 0, 1)
    assert torch.equal(item.read(3, None), expected)


def test_unreadable_images_are_reported(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    found, unreadable = make_items({Path("bad"): tmp_path / "bad.jpg", Path("a"): save(tmp_path / "a.png")}, None, 3)
    assert [item.name for item in found] == [Path("a")]
    assert len(unreadable) == 1
    assert "bad.jpg is unreadable" in unreadable[0]


def test_an_image_that_changes_after_its_header_was_read(tmp_path):
    path = save(tmp_path / "a.png")
    (item,), _ = make_items({Path("a"): path}, None, 3)
    save(path, width=60, height=50)
    assert item.read(3, None).shape == (3, 20, 30)
    path.write_bytes(b"no image")
    with input_error("a.png", "unreadable"):
        item.read(3, None)
