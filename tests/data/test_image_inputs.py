import numpy as np
import pytest
import torch
from helpers import input_error
from PIL import Image

from detbackbones.data.image_inputs import ImageFile, read_input
from detbackbones.data.images import read_image

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 4096, (20, 30), dtype=np.uint16)


def chw(array):
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_all_forms_of_an_rgb_image_are_the_same(tmp_path, name):
    path = tmp_path / name
    np.save(path, RGB) if name.endswith("npy") else Image.fromarray(RGB).save(path)
    for image in (path, str(path), ImageFile(path, 1), Image.fromarray(RGB), RGB, chw(RGB)):
        assert torch.equal(read_input(image), chw(RGB)), type(image)
    image = read_input(chw(RGB) / 255)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image * 255, chw(RGB).float())


def test_a_pillow_image_that_is_not_loaded_yet(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(read_input(image), chw(RGB))


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images(tmp_path, channels):
    grey = RGB[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    expected = chw(np.repeat(grey[..., None], channels, 2))
    for image in (tmp_path / "a.png", Image.fromarray(grey), grey, grey[..., None], torch.from_numpy(grey)):
        assert torch.equal(read_input(image, channels), expected), type(image)


@pytest.mark.parametrize("image_range", [None, (0, 2000)])
def test_16_bit_images_are_scaled_as_files_are(tmp_path, image_range):
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", DEEP)
    expected = read_image(tmp_path / "a.png", 3, image_range)
    assert expected.max() > 200
    for image in (tmp_path / "a.png", tmp_path / "a.npy", Image.open(tmp_path / "a.png"), DEEP):
        assert torch.equal(read_input(image, 3, image_range), expected), type(image)


def test_four_channels(tmp_path):
    array = np.concatenate([RGB, RGB[..., :1]], 2)
    Image.fromarray(array).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", Image.fromarray(array), array, chw(array)):
        assert torch.equal(read_input(image, 4), chw(array)), type(image)
    assert torch.equal(read_input(Image.fromarray(array)), chw(RGB))  # Pillow knows that the fourth is transparency


def test_the_orientation_of_a_file_is_applied_and_a_pillow_image_is_taken_as_it_is(tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif)
    assert torch.equal(read_input(path), chw(np.rot90(RGB, -1)))
    assert torch.equal(read_input(ImageFile(path, 1)), chw(RGB))
    with Image.open(path) as image:
        assert read_input(image).shape == (3, image.height, image.width)


@pytest.mark.parametrize(
    "image,words",
    [
        ("missing.jpg", ["missing.jpg"]),
        (np.zeros((3, 20, 30), np.uint8), ["3, 20, 30", "transpose"]),
        (np.zeros((20, 30, 4), np.uint8), ["4 channel", "expected 3"]),
        (np.zeros((0, 30, 3), np.uint8), ["0, 30, 3"]),
        (np.full((20, 30, 3), np.nan), ["finite"]),
        (np.array([["a"]]), ["numbers"]),
        (torch.zeros(2, 20, 30), ["3 x H x W"]),
        (torch.zeros(1, 3, 20, 30), ["C x H x W"]),
        (torch.full((3, 20, 30), 255.0), ["float in [0, 1]", "255"]),
        (torch.full((3, 20, 30), float("nan")), ["float in [0, 1]"]),
        (torch.zeros(3, 20, 30, dtype=torch.int64), ["int64"]),
        (12, ["int", "path"]),
    ],
)
def test_what_cannot_be_read_is_named(image, words):
    with input_error("unreadable", *words):
        read_input(image)


def test_a_broken_pillow_image_is_named(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with input_error("unreadable"), Image.open(tmp_path / "a.png") as image:
        read_input(image)
