"""List the image files of folders."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import InputError, shorten
from .files import walk_files

# Pillow identifies these formats, but decodes them with other programs or not at all
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be read as images: those that Pillow decodes, and .npy."""
    formats = Image.registered_extensions()
    readable = {suffix for suffix, name in formats.items() if name in Image.OPEN and name not in NOT_DECODED}
    return frozenset(readable | {".mpo", ".npy"})  # Pillow reads an MPO file as JPEG


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its name."""
    return path.suffix.lower() in image_suffixes()


def list_images(inputs: Sequence[str], skipped: Path) -> dict[Path, Path]:
    """Return image files by their name without suffix, relative to the folder that was searched.

    Args:
        inputs: folders, which are searched as by `walk_files`, and files, which are taken whatever their suffix.
        skipped: folder that is left out where it lies inside another one.

    Raises:
        InputError: a path does not exist, a folder has no image or cannot be read, or two files have the same name.
    """
    images: dict[Path, Path] = {}
    if not inputs:
        raise InputError("expected images or folders, got none")
    for path in map(Path, inputs):
        if not os.path.exists(path):
            raise InputError(f"image or folder {shorten(path)} does not exist")
        is_folder = path.is_dir()
        files = list(filter(is_image, walk_files(path, skipped))) if is_folder else [path]
        if not files:
            raise InputError(f"folder {shorten(path)} has no image (a file that Pillow reads, or .npy)")
        for file in files:
            name = file.relative_to(path if is_folder else path.parent).with_suffix("")
            if images.setdefault(name, file) != file:
                both = f"{shorten(images[name])} and {shorten(file)}"
                raise InputError(f"{both} would both be written to {shorten(name)}; use two folders")
    return images
