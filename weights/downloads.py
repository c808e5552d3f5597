"""Download a file once into the cache that torchvision and timm use."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from ..errors import InputError, shorten
from .download_cache import cache_path, file_problem, hash_in_name, is_whole, record, set_aside
from .transfers import TransferError, fetch, forget

MIRROR = "DETBACKBONES_MIRROR"
HUB, HUB_ENDPOINT = "huggingface.co", "HF_ENDPOINT"


def download(url: str, *, sha256_prefix: str | None = None, name: str | None = None) -> Path:
    """Return the path of a file in the cache, which is downloaded if it is missing or damaged.

    The cache is `torch.hub.get_dir()/checkpoints`. A file whose name ends in its hash, such as
    `resnet18-f37072fd.pth`, lies there directly, so files that torchvision or timm has downloaded are found. Any other
    file lies under the host and the path of its URL, and `<file>.json` beside it holds its length and SHA-256, which
    are compared on every use.

    A download is written to `<file>.part` and moved when it is whole. It resumes after an interruption, and of several
    processes one downloads while the others wait. A `file://` URL, or a mirror that is a folder, is used in place.

    Environment variables: DETBACKBONES_MIRROR is a URL or a folder that replaces scheme and host of `url`; HF_ENDPOINT
    does so for huggingface.co; TORCH_HOME moves the cache.

    Args:
        url: an http, https or file URL.
        sha256_prefix: first hexadecimal digits of the SHA-256. Not given: those in the file name; "" for none.
        name: path of the file in the cache, relative to it.

    Raises:
        InputError: The file cannot be downloaded or is not the right one; the message says where to put it by hand.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file") or not PurePosixPath(parts.path).name:
        raise InputError(f"{shorten(url, 200)} is not the URL of a file (http://, https:// or file://)")
    prefix = hash_in_name(name or unquote(parts.path)) if sha256_prefix is None else sha256_prefix.lower()
    if parts.scheme == "file":
        return _file_in_place(url, prefix)
    target = cache_path(url, name)
    if is_whole(target, prefix):
        return target
    source = mirrored(url)
    if source.startswith("file:"):
        return _file_in_place(source, prefix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if not is_whole(target, prefix):  # another process may have downloaded it meanwhile
                set_aside(target)
                _fetch_into_cache(source, target, prefix)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"cannot write {shorten(target, 200)} ({reason}); the environment variable TORCH_HOME names another cache"
        ) from None
    return target


def mirrored(url: str) -> str:
    """Return the URL that is asked for in place of `url`: that of a mirror, with the same path, or `url` itself."""
    parts = urlsplit(url)
    base = os.environ.get(HUB_ENDPOINT, "") if parts.hostname == HUB else ""
    base = base or os.environ.get(MIRROR, "")
    if not base:
        return url
    if "://" not in base:
        base = Path(base).expanduser().absolute().as_uri()
    query = f"?{parts.query}" if parts.query and not base.startswith("file:") else ""
    return base.rstrip("/") + parts.path + query


def _file_in_place(url: str, prefix: str) -> Path:
    """Return the path of a file URL."""
    path = Path(url2pathname(urlsplit(url).path))
    problem = file_problem(path, path.suffix, prefix) if path.is_file() else "it does not exist"
    if problem:
        raise InputError(f"cannot use {shorten(url, 200)}: {problem}")
    return path


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold a lock on a file of the cache; print that if another process holds it now."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that downloads {target.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_into_cache(url: str, target: Path, prefix: str) -> None:
    """Fetch a file, verify it and give it its final name. The caller holds the lock."""
    partial = target.with_name(f"{target.name}.part")
    problem = None
    for _ in range(2):
        try:
            was_resumed = fetch(url, partial, has_checksum=bool(prefix))
        except TransferError as error:
            raise InputError(
                f"cannot download {shorten(url, 200)} ({shorten(error, 200)}); if you have the file from elsewhere, "
                f"put it into the folder {shorten(target.parent, 200)} under the name {target.name}"
            ) from None
        problem = file_problem(partial, target.suffix, prefix)
        if problem is None:
            break
        forget(partial)
        if not was_resumed:  # otherwise it may be made of parts of two versions
            break
    if problem:
        raise InputError(
            f"the download of {shorten(url, 200)} is refused: {problem}; to use it all the same, download it yourself "
            "and give its path"
        )
    if not prefix:
        record(target, partial, url)
    os.replace(partial, target)
    forget(partial)
