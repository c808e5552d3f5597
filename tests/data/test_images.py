import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from detbackbones.data.images import read_image, value_range

ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PIXELS[0, 0], PIXELS[0, 1] = 0, 255
GREY = PIXELS[..., 0]


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


@pytest.fixture
def read(tmp_path):
    """A function that saves an image or an array, and reads it."""

    def read(content, suffix: str = "png", **options) -> torch.Tensor:
        path = tmp_path / f"a.{suffix}"
        np.save(path, content) if suffix == "npy" else content.save(path)
        return read_image(path, **options)

    return read


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "LA"])
@pytest.mark.parametrize("channels,target", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_images_of_8_bits_are_converted_as_by_pillow(read, mode, channels, target):
    image = Image.fromarray(PIXELS).convert(mode)
    expected = np.array(image.convert(target)).reshape(40, 60, channels)
    assert torch.equal(read(image, channels=channels), chw(expected))


def test_images_lie_in_memory_as_pillow_has_them(read):
    image = read(Image.fromarray(PIXELS))
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_deep_images_show_the_picture(read, bits, suffix):
    deep = np.round(GREY / 255 * (2**bits - 1)).astype(np.uint16)
    image = read(deep if suffix == "npy" else Image.fromarray(deep), suffix, channels=1)
    assert (image[0].int() - torch.from_numpy(GREY).int()).abs().max() <= 1
    assert torch.equal(read(deep, "npy"), image.expand(3, -1, -1))


@pytest.mark.parametrize("factor", [1 / 255, 1.2 / 255, 1, 1000])
def test_float_images_show_the_picture(read, factor):
    image = read(Image.fromarray(GREY.astype(np.float32) * factor), "tif", channels=1)
    expected = (GREY * (1.2 if factor == 1.2 / 255 else 1)).clip(0, 255)
    assert np.abs(image[0].numpy() - expected).max() <= 1


@pytest.mark.parametrize(
    "values,expected",
    [
        (np.array([0, 200], np.uint16), (0, 255)),
        (np.array([0, 256], np.uint16), (0, 1023)),
        (np.array([0, 5000], np.int64), (0, 8191 * 2 + 1)),
        (np.array([0, 70000], np.int32), (0, 2**24 - 1)),
        (np.array([0, 2**40], np.int64), (0, 2**40)),
        (np.array([-5, 5], np.int16), (-5, 5)),
        (np.array([0, 1], bool), (0, 1)),
        (np.array([0, 0.5], np.float16), (0, 1)),
        (np.array([0, 1.3, np.nan, np.inf]), (0, 1)),
        (np.array([3, 254.5]), (0, 255)),
        (np.array([0, 300.0]), (0, 300)),
        (np.array([-0.5, 0.5]), (-0.5, 0.5)),
        (np.array([np.nan, np.inf]), (0, 1)),
    ],
)
def test_value_range(values, expected):
    assert value_range(values) == expected


@pytest.mark.parametrize("dtype", ["b1", "u1", "i1", ">u2", "<i4", "u8", "i8", "f2", ">f4", "f8", np.longdouble])
def test_every_type_of_array_is_read(read, dtype):
    image = read((GREY > 100).astype(dtype) * np.array(1, dtype), "npy", channels=1)
    assert torch.equal(image[0] == image.max(), torch.from_numpy(GREY > 100))


def test_values_that_are_not_finite(read):
    values = np.array([[np.nan, 0, 1, np.inf, -np.inf]], np.float32)
    assert read(values, "npy", channels=1).flatten().tolist() == [0, 0, 255, 255, 0]
    extreme = np.array([[-1.7e308, np.nan, 1.7e308]])
    assert read(extreme, "npy", channels=1).shape == (1, 1, 3)


def test_the_range_can_be_fixed(read):
    options = {"channels": 1, "image_range": (100, 200)}
    values = np.array([[0, 100, 150, 200, 255]])
    for image in (read(values.astype(np.float32), "npy", **options), read(values.astype(np.uint8), "npy", **options)):
        assert image.flatten().tolist() == [0, 0, 128, 255, 255]
    assert read(Image.fromarray(values.astype(np.uint8)), **options).flatten().tolist() == [0, 0, 128, 255, 255]


def test_other_numbers_of_channels_are_the_files_own(read, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    assert torch.equal(read(pixels, "npy", channels=5), chw(pixels))
    pages = [Image.fromarray(pixels[..., channel]) for channel in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert torch.equal(read_image(tmp_path / "a.tif", 5), chw(pixels))
    assert torch.equal(read(Image.fromarray(pixels[..., :2], "LA"), channels=2), chw(pixels[..., :2]))


def test_cmyk_stays_if_there_are_four_channels(read):
    image = Image.fromarray(PIXELS).convert("CMYK")
    assert torch.equal(read(image, "tif", channels=4), chw(image))
    assert torch.equal(read(image, "tif"), chw(image.convert("RGB")))


@pytest.mark.parametrize("found,channels", [(5, 3), (4, 3), (2, 1), (3, 2), (1, 2)])
def test_channels_that_an_array_does_not_have_are_an_error(read, found, channels):
    with pytest.raises(ValueError, match=rf"has {found} channel\(s\), expected {channels}; set image_channels={found}"):
        read(np.zeros((4, 6, found), np.uint8), "npy", channels=channels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_by_pillow(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    np.save(tmp_path / "a.npy", PIXELS)
    with Image.open(tmp_path / "a.png") as file:
        expected = chw(ImageOps.exif_transpose(file))
    for name in ("a.png", "a.npy"):
        image = read_image(tmp_path / name, orientation=orientation)
        assert torch.equal(image, expected)
        assert image.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert read_image(tmp_path / f"a.{suffix}").float().mean((1, 2)).tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [0, 10, 300])
@pytest.mark.parametrize("suffix", ["jpg", "png", "npy"])
def test_a_broken_file_is_a_value_error_in_one_line(tmp_path, size, suffix):
    path = tmp_path / f"a.{suffix}"
    np.save(path, PIXELS) if suffix == "npy" else Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value) and str(path) not in str(caught.value)


def test_every_mode_shows_the_picture():
    """23 files of one picture, in which the red channel rises to the right and blue is constant."""
    folder = Path(os.environ.get("IMAGE_MODES", ROOT.parent / "shared" / "cases" / "110_image_modes"))
    if not folder.is_dir():
        pytest.skip(f"no image files: {folder} does not exist and IMAGE_MODES does not name a folder")
    picture = read_image(folder / "RGBA.png")
    for path in sorted(folder.iterdir()):
        image = read_image(path).float()
        expected = picture.float() if (image[0] != image[2]).any() else picture[:1].float().expand(3, -1, -1)
        correlation = torch.corrcoef(torch.stack([image[0].flatten(), expected[0].flatten()]))[0, 1]
        assert correlation > (0.8 if path.name.startswith("bilevel") else 0.99), path.name
        assert (image.mean((1, 2)) - expected.mean((1, 2))).abs().max() < 5, path.name


def write_tiff(path: Path, values: np.ndarray, photometric: int) -> Path:
    """Write one channel of unsigned numbers, which Pillow does not write with 32 bits or with white at 0."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    entries = sorted((tags | {279: values.nbytes}).items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    start = b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes()
    path.write_bytes(start + struct.pack("<H", len(entries)) + directory + bytes(4))
    return path


@pytest.mark.parametrize("photometric,expected", [(1, GREY), (0, 255 - GREY)])
@pytest.mark.parametrize("dtype,factor", [(np.uint8, 1), (np.uint16, 257), (np.uint32, 2**24 + 2**16 + 257)])
def test_unsigned_numbers_and_white_at_zero_in_tiff_files(tmp_path, photometric, expected, dtype, factor):
    if dtype == np.uint32 and photometric == 0:
        pytest.skip("Pillow does not read these")
    path = write_tiff(tmp_path / "a.tif", GREY.astype(dtype) * dtype(factor), photometric)
    assert torch.equal(read_image(path, 1), chw(expected[..., None]))


@pytest.mark.parametrize("pixels", [PIXELS, GREY, GREY.astype(np.uint16) * 257, GREY.astype(np.float32)])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_file_is_applied_only_if_asked_for(tmp_path, pixels, compression, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in (("turned.tif", {"exif": exif}), ("plain.tif", {})):
        Image.fromarray(pixels).save(tmp_path / name, compression=compression, **options)
    expected = read_image(tmp_path / "plain.tif")
    assert torch.equal(read_image(tmp_path / "turned.tif"), expected)
    turned = read_image(tmp_path / "turned.tif", orientation=orientation)
    assert torch.equal(turned, read_image(tmp_path / "plain.tif", orientation=orientation))
