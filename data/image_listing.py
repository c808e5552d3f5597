"""List the image files of folders."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..errors import InputError, shorten

# Pillow identifies these formats, but decodes them with other programs or not at all
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be read as images: those that Pillow decodes, and .npy."""
    formats = Image.registered_extensions()
    readable = {suffix for suffix, name in formats.items() if name in Image.OPEN and name not in NOT_DECODED}
    return frozenset(readable | {".mpo", ".npy"})  # Pillow reads an MPO file as JPEG


def is_leftover(path: Path) -> bool:
    """Return whether a file is the "._name" that macOS puts beside a file on other file systems."""
    return path.name.startswith("._")


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its name."""
    return path.suffix.lower() in image_suffixes() and not is_leftover(path)


def list_images(inputs: Sequence[str], skipped: Path) -> dict[Path, Path]:
    """Return image files by their name without suffix, relative to the folder that was searched.

    Args:
        inputs: folders, which are searched with their subfolders, and files, which are taken whatever their suffix.
        skipped: folder that is left out where it lies inside another one.

    Raises:
        InputError: a path does not exist, a folder has no image, or two files have the same name.
    """
    images: dict[Path, Path] = {}
    if not inputs:
        raise InputError("expected images or folders, got none")
    for path in map(Path, inputs):
        if not os.path.exists(path):
            raise InputError(f"image or folder {shorten(path)} does not exist")
        is_folder = path.is_dir()
        files = list(_files_below(path, skipped)) if is_folder else [path]
        if not files:
            raise InputError(f"folder {shorten(path)} has no image (a file that Pillow reads, or .npy)")
        for file in files:
            name = file.relative_to(path if is_folder else path.parent).with_suffix("")
            if images.setdefault(name, file) != file:
                both = f"{shorten(images[name])} and {shorten(file)}"
                raise InputError(f"{both} would both be written to {shorten(name)}; use two folders")
    return images


def _files_below(folder: Path, skipped: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise InputError(f"folder {shorten(error.filename)} cannot be read: {error.strerror}")

    for parent, subfolders, names in os.walk(folder, onerror=fail):
        subfolders[:] = sorted(name for name in subfolders if not _is_same(Path(parent, name), skipped))
        yield from filter(is_image, (Path(parent, name) for name in sorted(names)))


def _is_same(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)
