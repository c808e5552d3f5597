import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from detbackbones.data import image_files
from detbackbones.data.image_files import ImageHeader, read_header, read_headers
from detbackbones.data.image_folder import ImageFolder, suggest_path
from detbackbones.data.images import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a JPEG and a PNG image of 60 x 40 pixels."""
    for name in ("a.jpg", "b.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    return tmp_path


def with_orientation(path: Path, value: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(PIXELS).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    "mode,channels", [("1", 1), ("L", 1), ("P", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("I;16", 1)]
)
def test_size_and_channels(tmp_path, mode, channels):
    Image.new(mode, (60, 40)).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png") == ImageHeader(60, 40, channels)


@pytest.mark.parametrize("shape,channels", [((40, 60), 1), ((40, 60, 1), 1), ((40, 60, 3), 3), ((40, 60, 5), 5)])
def test_arrays(tmp_path, shape, channels):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    assert read_header(tmp_path / "a.npy") == ImageHeader(60, 40, channels, convertible=channels in (1, 3))


def test_pages_of_one_channel_and_one_size_are_channels(tmp_path):
    pages = [Image.new("L", (60, 40)) for _ in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=[*pages[1:], Image.new("L", (6, 4))])
    assert read_header(tmp_path / "a.tif") == ImageHeader(60, 40, 5, convertible=False)
    pages = [page.convert("RGB") for page in pages]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    assert read_header(tmp_path / "b.tif") == ImageHeader(60, 40, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation(tmp_path, suffix, orientation):
    header = read_header(with_orientation(tmp_path / f"a.{suffix}", orientation))
    assert header == ImageHeader(60, 40, 3, orientation)


@pytest.mark.parametrize("decode", [True, False])
def test_orientation_behind_the_pixels_of_a_png_file(tmp_path, decode):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content, data = (tmp_path / "a.png").read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "a.png").write_bytes(content[:-12] + chunk + content[-12:])
    assert read_header(tmp_path / "a.png", decode) == ImageHeader(60, 40, 3, 6)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_broken_orientation_counts_as_none(tmp_path, value):
    assert read_header(with_orientation(tmp_path / "a.jpg", value)).orientation == 1


def test_broken_exif_counts_as_none(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(20))
    assert read_header(tmp_path / "a.jpg") == ImageHeader(60, 40, 3)


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
def test_a_file_cut_off_is_unreadable(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert "truncated" in read_headers([folder / name])[0].problem


def test_in_a_large_set_a_file_with_its_end_marker_is_not_decoded(folder, monkeypatch):
    content = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(content[:60] + content[-12:])  # nearly all pixels are missing
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-100])
    paths = [folder / "a.jpg", folder / "b.png"]
    assert all(header.problem for header in read_headers(paths))
    monkeypatch.setattr(image_files, "MAX_DECODED", 1)
    assert [header.problem is None for header in read_headers(paths)] == [False, True]


def test_a_file_is_read_once(folder, monkeypatch):
    paths = [folder / "a.jpg", folder / "b.png"]
    headers = read_headers(paths)
    monkeypatch.setattr(Image, "open", None)
    assert read_headers(paths) == headers == [ImageHeader(60, 40, 3)] * 2


def test_an_unreadable_file_is_read_again(folder):
    content = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(b"x" * len(content))
    os.utime(folder / "a.jpg", ns=(5, 5))
    assert "cannot identify" in read_headers([folder / "a.jpg"])[0].problem
    (folder / "a.jpg").write_bytes(content)
    os.utime(folder / "a.jpg", ns=(5, 5))
    assert read_headers([folder / "a.jpg"])[0].problem is None


@pytest.mark.parametrize("channels,problems", [(None, 0), (1, 1), (3, 1), (4, 1), (2, 1), (5, 2)])
def test_images_that_cannot_give_the_channels(tmp_path, channels, problems):
    Image.new("LA", (60, 40)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((40, 60, 6), np.uint8))
    headers = read_headers([tmp_path / "a.png", tmp_path / "b.npy"], channels)
    assert sum(header.problem is not None for header in headers) == problems
    assert not problems or headers[1].problem.startswith(f"it has 6 channel(s), expected {channels}; ")


def test_too_many_pixels_are_one_line(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    np.save(folder / "c.npy", np.zeros((40, 60), np.uint8))
    for name in ("a.jpg", "b.png", "c.npy"):
        assert read_header(folder / name).problem.startswith("it has 0 megapixels, more than 0 ")


def test_pillow_warnings_are_not_shown(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        assert [header.problem for header in read_headers([folder / "a.jpg", folder / "b.png"])] == [None, None]
        assert read_image(folder / "a.jpg").shape == (3, 40, 60)
    assert not shown


def test_libtiff_writes_nothing(tmp_path, capfd):
    path = tmp_path / "a.tif"
    Image.fromarray(PIXELS).save(path, compression="tiff_lzw")
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\xff" * 50 + content[250:])
    (header,) = read_headers([path])
    os.write(2, b"restored")
    assert header.problem is not None and capfd.readouterr().err == "restored"


@pytest.mark.parametrize(
    "name,write",
    [
        ("folder.jpg", lambda path: path.mkdir()),
        ("pipe.jpg", os.mkfifo),
        ("missing.jpg", lambda path: None),
        ("empty.jpg", lambda path: path.touch()),
        ("page.jpg", lambda path: path.write_text("<html></html>")),
        ("x" * 300 + ".jpg", lambda path: None),
        ("a\0b.jpg", lambda path: None),
        ("text.npy", lambda path: np.save(path, np.array(["a"]))),
        ("objects.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
        ("line.npy", lambda path: np.save(path, np.zeros(5))),
        ("nothing.npy", lambda path: np.save(path, np.zeros((0, 5)))),
        ("complex.npy", lambda path: np.save(path, np.zeros((5, 5), complex))),
        ("short.npy", lambda path: path.write_bytes(b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, ")),
    ],
)
def test_what_is_no_image_has_a_problem(tmp_path, name, write):
    write(tmp_path / name)
    problem = read_headers([tmp_path / name])[0].problem
    assert problem and "\n" not in problem and str(tmp_path) not in problem and len(problem) <= 160


def test_mutated_bytes_never_raise(tmp_path):
    random = np.random.default_rng(0)
    image = Image.fromarray(PIXELS)
    paths = []
    for suffix in ("jpg", "png", "gif", "tif", "bmp", "webp", "npy"):
        path = tmp_path / f"a.{suffix}"
        np.save(path, PIXELS) if suffix == "npy" else image.save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for number in range(30):
            changed = content.copy()
            changed[random.integers(0, min(len(changed), 200), 3)] = random.integers(0, 256, 3)
            paths.append(tmp_path / f"{number}.{suffix}")
            paths[-1].write_bytes(changed[: len(changed) - random.integers(0, 2) * 50].tobytes())
    for header in read_headers(paths):
        assert header.problem is not None or (header.width > 0 and header.height > 0 and header.channels > 0)


def test_the_orientation_of_a_png_file_does_not_decode_it(tmp_path):
    path = with_orientation(tmp_path / "a.png", 6)
    content = path.read_bytes()
    path.write_bytes(content[:150] + content[-12:])
    assert read_header(path, decode=False) == ImageHeader(60, 40, 3, 6)
    with Image.open(with_orientation(path, 6)) as image:
        assert ImageOps.exif_transpose(image).size == (40, 60)


def test_names_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", "e\u0301.jpg", "sub/\u00fc.jpg", "back\\slash.jpg"):
        (tmp_path / name).touch()
    folder = ImageFolder(tmp_path)
    assert folder.find("a.jpg") == "a.jpg"
    assert folder.find("sub/b.jpg") == folder.find("sub\\b.jpg") == "sub/b.jpg"
    assert folder.find("\u00e9.jpg") == "e\u0301.jpg"
    assert folder.find("sub\\u\u0308.jpg") == folder.find("sub/u\u0308.jpg") == "sub/\u00fc.jpg"
    assert folder.find("back\\slash.jpg") == "back\\slash.jpg"


@pytest.mark.parametrize("name", ["", ".", "..", "/", "sub", "b.jpg", "x" * 300, "x/" * 3000, "a\0.jpg", "\ud800.jpg"])
def test_names_that_do_not_exist(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "nested").mkdir()
    folder = ImageFolder(tmp_path)
    assert folder.find(name) is None
    assert "\n" not in folder.suggest(name)


def test_the_nearest_names_are_suggested(tmp_path):
    for number in range(3000):
        (tmp_path / f"image_{number:04}.jpg").touch()
    folder = ImageFolder(tmp_path)
    assert "image_2999.jpg" in folder.suggest("image_2999.jpeg")
    assert "does not exist either" in folder.suggest("val/image_9999.jpg")
    for _ in range(20):
        last = folder.suggest("image_2999.jpeg")
    assert last == ""  # a folder with all names missing takes seconds, not hours


@pytest.mark.parametrize("name", ["C:\\Users\\me\\a.jpg", "/data/upload/a.jpg", "images/a.jpg"])
def test_a_name_with_another_folder_is_recognised(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    assert "did you mean a.jpg?" in ImageFolder(tmp_path).suggest(name)


def test_a_missing_folder_is_suggested(tmp_path):
    (tmp_path / "images").mkdir()
    assert suggest_path(tmp_path / "image") == "; did you mean images?"
    assert suggest_path(tmp_path / "images" / "a.jpg") == "; the folder is empty"


def write_tiff(path, samples, extra=()):
    """Write 8-bit RGB with further samples per pixel, chunky, as many programs write near infrared."""
    height, width = 4, 5
    pixels = np.arange(height * width * samples, dtype=np.uint8).reshape(height, width, samples)
    entries = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, samples)]
    entries += [(278, 3, 1, height), (279, 4, 1, pixels.size), (284, 3, 1, 1)]
    bits_at = 8 + 2 + 12 * (len(entries) + 3) + 4
    pixels_at = bits_at + 2 * samples + 2 * (samples - 3)
    entries += [(258, 3, samples, bits_at), (273, 4, 1, pixels_at)]
    extra_value = 0 if samples - 3 <= 2 else bits_at + 2 * samples
    entries += [(338, 3, samples - 3, extra_value)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", 0)
    content += struct.pack(f"<{samples}H", *[8] * samples) + bytes(2 * (samples - 3)) + pixels.tobytes()
    path.write_bytes(content)
    return pixels


def test_samples_that_pillow_does_not_read_are_not_taken_for_alpha(tmp_path):
    pixels = write_tiff(tmp_path / "a.tif", samples=4)
    assert (read_image(tmp_path / "a.tif").permute(1, 2, 0).numpy() == pixels[..., :3]).all()
    assert "expected 4" in read_headers([tmp_path / "a.tif"], channels=4)[0].problem
    with pytest.raises(ValueError, match="expected 4"):
        read_image(tmp_path / "a.tif", channels=4)


def test_16_bit_colour_is_known(tmp_path):
    deep = tmp_path / "deep.png"
    write_deep_png(deep)
    assert read_headers([deep])[0].deep_colour
    with pytest.raises(ValueError, match="16-bit colour"):
        read_image(deep, image_range=(0, 4095))


def write_deep_png(path):
    """Write one pixel of 16-bit RGB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">3H", 1000, 2000, 3000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
