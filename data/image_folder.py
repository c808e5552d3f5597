"""Find files under the names that annotations give them, and suggest names for those that do not exist."""

import os
import unicodedata
from bisect import bisect_left
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from ..errors import did_you_mean, shorten

MAX_SUGGESTIONS = 10  # per folder: a hint takes milliseconds, and a message shows no more


class ImageFolder:
    """The files of an image folder, found under the names that annotations give them.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._listings: dict[str, dict[str, str]] = {}
        self._suggestions_left = MAX_SUGGESTIONS

    def find(self, name: str) -> str | None:
        """Return the name, relative to the folder, of the file that an annotation names; None if it does not exist.

        It is the name itself, or the name with backslashes as slashes, or the file whose name is the same text in
        another Unicode form (composed, as on Linux and Windows, or decomposed, as from macOS).
        """
        for spelling in (name, name.replace("\\", "/")):
            if self._listing("").get(composed(spelling)) == spelling or os.path.isfile(self.folder / spelling):
                return spelling
        found = ""
        for part in PurePosixPath(name.replace("\\", "/")).parts:
            match = self._listing(found).get(composed(part))
            if match is None:
                return None
            found = os.path.join(found, match)
        return found if os.path.isfile(self.folder / found) else None

    def suggest(self, name: str) -> str:
        """Return the end of an error message on a missing file, such as "; did you mean a.jpg?". May be empty."""
        self._suggestions_left -= 1
        if self._suggestions_left < 0:
            return ""
        path = PurePosixPath(name.replace("\\", "/"))
        found = self.find(path.name) if len(path.parts) > 1 else None
        if found is not None:
            return f"; did you mean {shorten(found)}? file_name is relative to this folder"
        return suggest_path(self.folder / path)

    def _listing(self, below: str) -> dict[str, str]:
        """Return composed name -> name of what lies in a subfolder."""
        if below not in self._listings:
            self._listings[below] = {composed(name): name for name in list_folder(self.folder / below)}
        return self._listings[below]


def suggest_path(path: Path) -> str:
    """Return the end of an error message on a missing path: the nearest names in its folder."""
    if not os.path.isdir(path.parent):
        return f"; its folder {shorten(path.parent)} does not exist either"
    return _suggest(path.name, list_folder(path.parent)) or f"; see {shorten(path.parent)}"


def _suggest(name: str, names: Collection[str]) -> str:
    """Return "; did you mean ...?" for `name` among `names`, or "" if the hint is too long."""
    ordered = sorted(names)
    middle = bisect_left(ordered, name)
    hint = did_you_mean(name[:300], ordered[max(0, middle - 1000) : middle + 1000]) if names else "the folder is empty"
    return f"; {shorten(hint, 200)}" if len(hint) < 200 else ""


def list_folder(folder: Path) -> list[str]:
    """Return the names in a folder; none if it does not exist or cannot be read."""
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def composed(name: str) -> str:
    """Return a name in composed Unicode form, as on Linux and Windows; macOS may have decomposed it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
