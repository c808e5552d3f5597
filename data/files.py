"""Walk folders and read files that people, their tools and their network drives have written."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, shorten

SYSTEM_FOLDERS = {"@eadir", "#recycle", "__macosx", "$recycle.bin"}  # of network drives and archives


def walk_files(folder: Path, skipped: Path | None = None) -> Iterator[Path]:
    """Yield the files below a folder.

    Links to folders are followed after the folders themselves, and every folder is visited once. Folders whose names
    start with a dot, such as .ipynb_checkpoints, and those of network drives are left out; so are the files "._name"
    that macOS puts beside others.

    Args:
        folder: the folder, whatever its name.
        skipped: a folder that is left out where it lies inside.

    Raises:
        InputError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"folder {shorten(error.filename)} cannot be read: {error.strerror}")

    visited = set() if skipped is None else {os.path.realpath(skipped)} - {os.path.realpath(folder)}
    links = [str(folder)]
    while links:
        for parent, subfolders, names in os.walk(links.pop(0), onerror=fail):
            subfolders[:] = sorted(name for name in subfolders if not _is_system_folder(name))
            if os.path.realpath(parent) in visited:
                subfolders.clear()
                continue
            visited.add(os.path.realpath(parent))
            paths = (os.path.join(parent, name) for name in subfolders)
            links += [path for path in paths if os.path.islink(path)]
            yield from (Path(parent, name) for name in sorted(names) if not name.startswith("._"))


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises OSError for anything else, also for a pipe, which would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is not a file")
    return path.read_bytes()


def _is_system_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS
