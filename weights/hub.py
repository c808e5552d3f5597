"""Download files from the Hugging Face hub, or from a mirror of it that `HF_ENDPOINT` names, into the hub's cache."""

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line, shorten
from .checkpoints import WEIGHTS_FILE
from .config_file import CONFIG_FILE
from .download_cache import sha256
from .downloads import HUB, HUB_ENDPOINT

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


def download_model(repository: str, revision: str | None = None, **options: Any) -> Path:
    """Download a saved model of ours.

    Args:
        repository: "owner/name", also with "hf:" before it.
        revision, options: see `download_from_hub`.

    Returns:
        The folder of its files.

    Raises:
        InputError: it is not the name of a repository, or its weights cannot be downloaded.
    """
    repository = repository.removeprefix("hf:")
    if not REPOSITORY.fullmatch(repository):
        raise InputError(
            f"{shorten(repository)} does not exist (a repository of the Hugging Face Hub looks like owner/name)"
        )
    path = download_from_hub(repository, WEIGHTS_FILE, revision, **options)
    with contextlib.suppress(InputError):  # the weights file has the config, too, but the Hub counts these downloads
        download_from_hub(repository, CONFIG_FILE, revision, **options)
    return path.parent


def download_from_hub(repo: str, filename: str, revision: str | None = None, **options: Any) -> Path:
    """Return the path of a file of a Hugging Face repository, downloaded into the hub's cache if it is missing.

    The file is compared with its ETag, which is the hash of its content, on every use. The hub's environment variables
    hold: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.

    Args:
        repo: name of the repository, such as "microsoft/resnet-50".
        filename: path of the file in it.
        revision: branch, tag or commit; the main branch if not given.
        options: force_download, token, cache_dir and local_files_only of `hf_hub_download`.

    Raises:
        InputError: The file cannot be had or is damaged; the message says why.
    """
    path = _from_hub(repo, filename, revision, options)
    if _matches_etag(path):
        return path
    if _is_local(options):
        raise InputError(f"{shorten(path, 200)} is damaged; without HF_HUB_OFFLINE and local_files_only it is replaced")
    path = _from_hub(repo, filename, revision, {**options, "force_download": True})
    if not _matches_etag(path):
        path.resolve().unlink()
        raise InputError(f"the download of {filename} of {repo} is refused: its content does not match its hash")
    return path


def _is_local(options: Mapping[str, Any]) -> bool:
    from huggingface_hub import constants

    return bool(options.get("local_files_only") or constants.HF_HUB_OFFLINE)


def _from_hub(repo: str, filename: str, revision: str | None, options: Mapping[str, Any]) -> Path:
    from huggingface_hub import errors, hf_hub_download  # takes half a second and is needed only here

    endpoint = os.environ.get(HUB_ENDPOINT) or None  # huggingface_hub reads it only when it is imported
    page = f"{(endpoint or f'https://{HUB}').rstrip('/')}/{repo}"
    log_in = "log in with `hf auth login` or HF_TOKEN"
    try:
        settings: dict[str, Any] = {"revision": revision, "endpoint": endpoint, "library_name": "detbackbones"}
        return Path(str(hf_hub_download(repo, filename, **settings, **options)))
    except errors.GatedRepoError:
        reason = f"access is gated; accept its terms at {page} and {log_in}"
    except errors.RepositoryNotFoundError:
        reason = f"{page} does not exist, or it is private ({log_in})"
    except errors.RevisionNotFoundError:
        reason = f"revision {revision!r} does not exist"
    except errors.LocalEntryNotFoundError as error:
        cache = f"{options['cache_dir']}" if options.get("cache_dir") else "the hub's cache, which HF_HOME names,"
        why = f"{page} cannot be reached ({shorten(first_line(error.__cause__ or error), 150)})"
        if _is_local(options):
            why = "HF_HUB_OFFLINE or local_files_only is set"
        reason = f"{why}, and {cache} does not have the file"
    except errors.EntryNotFoundError:
        reason = f"the file does not exist; {page}/tree/{revision or 'main'} lists the files"
    except Exception as error:  # of a name that is not valid, and of the HTTP client that huggingface_hub uses
        reason = first_line(error.__cause__ or error)
    raise InputError(f"cannot download {shorten(filename)} of {shorten(repo)}: {shorten(reason, 500)}")


def _matches_etag(path: Path) -> bool:
    """Return whether a file of the hub's cache has the hash that names its blob: SHA-256, or Git's SHA-1 if small."""
    blob = path.resolve()
    if blob.parent.name != "blobs":  # a system without symbolic links
        return True
    if len(blob.name) == 64:
        return sha256(blob) == blob.name
    content = blob.read_bytes()
    return len(blob.name) != 40 or hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob.name
