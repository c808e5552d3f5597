"""Files in the cache of downloads: where they lie, and whether one is whole and the right one."""

import hashlib
import json
import os
import re
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import torch

from ..errors import InputError, shorten
from .file_problems import describe_wrong_file, is_html

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # names of torchvision, timm and OpenMMLab
WEIGHT_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".pkl", ".safetensors")


def hash_in_name(path: str) -> str:
    """Return the first digits of the SHA-256 that a file name ends in, or ""."""
    match = HASH_IN_NAME.search(path)
    return match[1] if match else ""


def cache_path(url: str, name: str | None = None) -> Path:
    """Return where the cache has the file of a URL.

    Args:
        url: URL of the file.
        name: path of the file in the cache. Not given: the file's own name if its hash is in it, as torchvision and
            timm do; otherwise host and path of the URL, since names such as `model_final.pkl` occur many times.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    parts = urlsplit(url)
    path = PurePosixPath(unquote(parts.path).lstrip("/"))
    if name is None and hash_in_name(path.name):
        name = path.name
    elif name is None:
        query = [hashlib.sha256(parts.query.encode()).hexdigest()[:8]] if parts.query else []
        name = str(PurePosixPath(parts.netloc.replace(":", "_"), path.parent, *query, path.name))
    if ".." in PurePosixPath(name).parts or Path(name).is_absolute():
        raise InputError(f"{shorten(name)} must be the path of a file below {shorten(folder, 200)}")
    return folder / name


def is_whole(path: Path, sha256_prefix: str) -> bool:
    """Return whether the cache has a file, and it is the one that was downloaded.

    Without the digits of a hash, length and SHA-256 are compared with those of the first download. A file without
    these, which was put there by hand or by another program, only must not be of a wrong kind.
    """
    if not path.is_file():
        return False
    if sha256_prefix:
        return sha256(path).startswith(sha256_prefix)
    try:
        recorded = json.loads(_record_path(path).read_text())
        return path.stat().st_size == recorded["length"] and sha256(path) == recorded["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return file_problem(path, path.suffix, "") is None


def file_problem(path: Path, suffix: str, sha256_prefix: str) -> str | None:
    """Return in one line why a file is not the one that was asked for, or None.

    Args:
        path: the file.
        suffix: that of its final name.
        sha256_prefix: first digits of the SHA-256 that it must have, or "".
    """
    digest = sha256(path) if sha256_prefix else ""
    if digest and digest.startswith(sha256_prefix):
        return None
    if suffix in WEIGHT_SUFFIXES:
        problem = describe_wrong_file(path)
    else:
        problem = "an HTML page" if is_html(path) else None
    if problem:
        return f"it is {problem}"
    if digest:
        return f"its SHA-256 begins with {digest[: len(sha256_prefix)]}, and {sha256_prefix} was expected"
    return None


def record(path: Path, content: Path, url: str) -> None:
    """Write beside `path` what `is_whole` compares, for a file whose content is still elsewhere."""
    values = {"url": url.split("?")[0], "length": content.stat().st_size, "sha256": sha256(content)}
    _record_path(path).write_text(json.dumps(values))


def set_aside(path: Path) -> None:
    """Rename a damaged file, if there is one, and print that."""
    if path.is_file():
        damaged = path.with_name(f"{path.name}.damaged")
        os.replace(path, damaged)
        print(f"{shorten(path, 200)} is damaged: renamed to {damaged.name}, downloading it again", file=sys.stderr)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
