"""The folder of what the package keeps between runs, and facts about files in it."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return $DETBACKBONES_CACHE, or `detbackbones` in the user's cache. It may not exist yet.

    Raises:
        RuntimeError: the user has no home folder, and no variable names a folder.
    """
    named = os.environ.get("DETBACKBONES_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else Path(user_cache or Path.home() / ".cache") / "detbackbones"


class FileFacts:
    """Facts about files that hold while path, size and time of change stay the same.

    The cache folder has one JSON file per folder of such files. One that cannot be read or written is ignored.

    Args:
        kind: name of the facts, with a version; part of the cache file's name.
        paths: the files. They are looked up by their position.
    """

    def __init__(self, kind: str, paths: Sequence[Path]):
        self._kind = kind
        self._places = [os.path.split(os.path.abspath(path)) for path in paths]
        self._identities = [_identity(path) for path in paths]
        self._known = {folder: self._read(folder) for folder in {folder for folder, _ in self._places}}

    def get(self, index: int) -> list | None:
        """Return the facts on a file, or None if there are none or the file has changed."""
        folder, name = self._places[index]
        entry = self._known[folder].get(name)
        identity = self._identities[index]
        return entry[2:] if identity is not None and isinstance(entry, list) and entry[:2] == identity else None

    def save(self, facts: Mapping[int, list]) -> None:
        """Add facts, as lists of what JSON holds, and forget those on files that no longer exist."""
        for index, values in facts.items():
            folder, name = self._places[index]
            identity = self._identities[index]
            if identity is not None:
                self._known[folder][name] = [*identity, *values]
        for folder in {self._places[index][0] for index in facts}:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._write(folder)

    def _file(self, folder: str) -> Path:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
        return cache_folder() / "files" / f"{self._kind}-{name}.json"

    def _read(self, folder: str) -> dict[str, Any]:
        with contextlib.suppress(OSError, RuntimeError, ValueError, RecursionError):
            content = json.loads(self._file(folder).read_bytes())
            if isinstance(content, dict):
                return content
        return {}

    def _write(self, folder: str) -> None:
        existing = set(os.listdir(folder))
        content = json.dumps({name: entry for name, entry in self._known[folder].items() if name in existing})
        file = self._file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(content)
            os.replace(temporary, file)
        except OSError:
            os.unlink(temporary)
            raise


def _identity(path: Path) -> list[int] | None:
    """Return size and time of change of a regular file, None for anything else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else None
