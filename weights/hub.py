"""Download saved models from the Hugging Face Hub, or from a mirror of it that `HF_ENDPOINT` names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from ..errors import InputError, shorten
from .checkpoints import WEIGHTS_FILE
from .config_file import CONFIG_FILE

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


def download_model(repository: str, options: Mapping[str, Any]) -> Path:
    """Download a saved model into the cache of `huggingface_hub`.

    Args:
        repository: "owner/name", also with "hf:" before it.
        options: keyword arguments of `hf_hub_download`.

    Returns:
        The folder of its files.

    Raises:
        InputError: it is not the name of a repository, or a file cannot be downloaded.
    """
    repository = repository.removeprefix("hf:")
    if not REPOSITORY.fullmatch(repository):
        raise InputError(
            f"{shorten(repository)} does not exist (a repository of the Hugging Face Hub looks like owner/name)"
        )
    endpoint = os.environ.get("HF_ENDPOINT") or None  # huggingface_hub reads it only when it is imported
    options = {"endpoint": endpoint, **options}
    try:
        path = hf_hub_download(repository, WEIGHTS_FILE, **options)
    except (OSError, ValueError) as error:  # of the network, of the Hub, of the name of a revision
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
        url = hf_hub_url(repository, WEIGHTS_FILE, revision=options.get("revision"), endpoint=endpoint)
        raise InputError(
            f"cannot download {url} ({reason}); a folder that has this file can be given instead"
        ) from None
    try:
        hf_hub_download(repository, CONFIG_FILE, **options)  # the Hub counts these downloads
    except (EntryNotFoundError, LocalEntryNotFoundError):
        pass  # the weights file has the config, too
    return Path(path).parent
