"""List the image files of folders."""

import functools
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
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
        inputs: see `find_images`.
        skipped: folder that is left out where it lies inside another one.

    Raises:
        InputError: a path does not exist, a folder has no image or cannot be read, or two files have the same name.
    """
    images: dict[Path, Path] = {}
    for found, file in find_images(inputs, skipped):
        name = found.with_suffix("")
        if images.setdefault(name, file) != file:
            both = f"{shorten(images[name])} and {shorten(file)}"
            raise InputError(f"{both} would both be written to {shorten(name)}; use two folders")
    return images


def find_images(inputs: Sequence[str], skipped: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the name, relative to the folder that was searched, and the path of each image file.

    Args:
        inputs: folders, which are searched as by `walk_files`; files, which are taken whatever their suffix; and
            patterns such as "photos/*.jpg" and "photos/**/*.png", which no file has as its name.
        skipped: folder that is left out where it lies inside another one.

    Raises:
        InputError: a path does not exist, or a folder has no image or cannot be read.
    """
    if not inputs:
        raise InputError("expected images or folders, got none")
    for path in map(Path, inputs):
        if not os.path.exists(path) and glob.has_magic(str(path)):
            yield from _match_pattern(path, skipped)
            continue
        if not os.path.exists(path):
            raise InputError(f"image or folder {shorten(path)} does not exist")
        is_folder = path.is_dir()
        files = list(filter(is_image, walk_files(path, skipped))) if is_folder else [path]
        if not files:
            raise InputError(f"folder {shorten(path)} has no image (a file that Pillow reads, or .npy)")
        yield from ((file.relative_to(path if is_folder else path.parent), file) for file in files)


def _match_pattern(pattern: Path, skipped: Path) -> Iterator[tuple[Path, Path]]:
    parts = pattern.parts
    folder = Path(*parts[: next(index for index, part in enumerate(parts) if glob.has_magic(part))])
    output = os.path.realpath(skipped)
    files = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if os.path.isfile(name)]
    files = [file for file in files if is_image(file) and Path(output) not in Path(os.path.realpath(file)).parents]
    if not files:
        raise InputError(f"no image fits {shorten(pattern)} (a file that Pillow reads, or .npy)")
    yield from ((file.relative_to(folder), file) for file in files)


def distinct_names(images: Sequence[tuple[Path, Path]]) -> list[Path]:
    """Return a name without suffix for a file that is made of each image; no two are the same, in any case of letters.

    It is the name of the image without its suffix. Images that would have the same keep their suffix ("a.jpg",
    "a.png"), and if they still have the same, they are numbered ("a.jpg-2").

    Args:
        images: (name, path) of `find_images`.
    """
    stems = [name.with_suffix("") for name, _ in images]
    counts = Counter(str(stem).lower() for stem in stems)
    names, used = [], set()
    for stem, (name, _) in zip(stems, images):
        wanted = stem if counts[str(stem).lower()] == 1 else name
        chosen, number = wanted, 1
        while str(chosen).lower() in used:
            number += 1
            chosen = wanted.with_name(f"{wanted.name}-{number}")
        used.add(str(chosen).lower())
        names.append(chosen)
    return names
