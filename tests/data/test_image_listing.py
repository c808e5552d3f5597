"""list_images: which files of a folder are images, and under which names."""

from pathlib import Path

import numpy as np
import pytest
from helpers import input_error
from PIL import Image

from detbackbones.data.image_listing import distinct_names, find_images, image_suffixes, list_images


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names(*inputs: str, skipped: str = "out") -> set[str]:
    return {str(name) for name in list_images(inputs, Path(skipped))}


def test_suffixes_are_those_that_pillow_decodes():
    assert {".jpg", ".jpe", ".jfif", ".gif", ".avif", ".tif", ".webp", ".npy"} <= image_suffixes()
    assert not {".txt", ".json", ".npz", ".pdf", ".h5", ".mpg", ".eps", ""} & image_suffixes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_suffix_that_pillow_writes_is_read(tmp_path):
    Image.init()
    pixels = Image.fromarray(np.zeros((8, 8), np.uint8))
    for suffix in {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}:
        try:
            pixels.convert("RGB").save(tmp_path / f"x{suffix}")
            with Image.open(tmp_path / f"x{suffix}") as file:
                file.load()
        except Exception:
            continue  # written for other programs, or with a codec that is missing here
        assert suffix in image_suffixes() or suffix in (".eps", ".ps")


def test_folders_are_searched_with_their_subfolders_in_any_case(here):
    touch("a/x.JPG", "a/b/y.Jpe", "a/b/z.txt", "a/.w.png")
    assert names("a") == {"x", "b/y", ".w"}


def test_a_file_is_taken_whatever_its_suffix(here):
    touch("a/x.photo", "y")
    assert names("a/x.photo", "y") == {"x", "y"}


def test_folders_that_look_like_images_are_not_images(here):
    touch("a/x.jpg/y.png")
    assert names("a") == {"x.jpg/y"}


@pytest.mark.parametrize("skipped", ["a/out", "./a/../a/out", "link"])
def test_one_folder_is_left_out(here, skipped):
    touch("a/x.jpg", "a/out/x.png", "a/out/b/y.png", "a/outer/z.png")
    Path("link").symlink_to("a/out")
    assert names("a", skipped=skipped) == {"x", "outer/z"}


@pytest.mark.parametrize(
    "inputs,words",
    [
        ([], ("images or folders", "none")),
        (["nowhere"], ("nowhere", "does not exist")),
        (["n" * 300], ("n...n", "does not exist")),
        (["empty"], ("empty", "no image")),
        (["a", "b"], ("a/x.jpg and b/x.png", "two folders")),
    ],
)
def test_errors(here, inputs, words):
    touch("a/x.jpg", "b/x.png", "empty/x.txt")
    with input_error(*words):
        list_images(inputs, Path("out"))


def test_patterns_are_matched_below_their_first_folder(here):
    touch("a/x.jpg", "a/b/x.jpg", "a/b/y.png", "a/b/z.txt", "a/out/w.jpg")
    found = [str(name) for name, _ in find_images(["a/**/*.*"], Path("a/out"))]
    assert found == ["b/x.jpg", "b/y.png", "x.jpg"]
    touch("odd[1].jpg")
    assert names("odd[1].jpg") == {"odd[1]"}  # a file of that name comes first
    with input_error("a/*.gif"):
        list(find_images(["a/*.gif"], Path("out")))


def test_distinct_names():
    names = [Path(name) for name in ("x.jpg", "b/x.jpg", "y.png", "Y.jpg", "z.jpg", "z.jpg")]
    chosen = distinct_names([(name, name) for name in names])
    assert [str(name) for name in chosen] == ["x", "b/x", "y.png", "Y.jpg", "z.jpg", "z.jpg-2"]
    assert distinct_names([]) == []
