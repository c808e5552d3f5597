"""Data that lie beside the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder(name: str, variable: str) -> Path:
    """Return a folder of data beside the repository, or the one that an environment variable names."""
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"no data: {folder} does not exist and {variable} does not name a folder")
    return folder
