"""`config.json` beside the weights of a saved model: its config and metadata, to be read by people and by the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, shorten
from .weight_files import to_json

CONFIG_FILE = "config.json"
LIBRARY = {"library": "detbackbones"}


def config_text(content: Mapping[str, Any]) -> str:
    """Return the text of the file for a model's {"config": ..., "metadata": ...}."""
    return json.dumps(_file_content(content), indent=2, ensure_ascii=False) + "\n"


def check_config_file(folder: Path, content: Mapping[str, Any]) -> None:
    """Check that the file says what the weights file says, because a change of it alone would have no effect.

    A missing file, or one of another program, is accepted.

    Raises:
        InputError: it differs.
    """
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(found, Mapping) and found.items() >= LIBRARY.items() and found != _file_content(content):
        raise InputError(
            f"{shorten(path)} was changed, but the config in the weights file beside it decides; restore or remove the "
            "file, and pass changed arguments to from_pretrained"
        )


def _file_content(content: Mapping[str, Any]) -> dict[str, Any]:
    return LIBRARY | {key: to_json(content[key]) for key in ("config", "metadata")}
