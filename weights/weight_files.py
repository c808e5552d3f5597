"""Files of weights alone in the safetensors format, with the config and metadata of the run in the header."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import shorten

HEADER, CHECKSUM = "detbackbones", "crc32"
TUPLE = "__tuple__"  # JSON has lists only


def weights_file_content(state: Mapping[str, Tensor], config: Mapping, metadata: Mapping) -> bytes:
    """Return the bytes of a file that `read_weights_file` reads.

    Config and metadata may have None, numbers, text, lists, tuples, and dicts with keys of text.

    Raises:
        TypeError: Config or metadata have a value of another kind.
    """
    # safetensors takes neither shared nor permuted memory
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    text = json.dumps({"config": to_json(config), "metadata": to_json(metadata)})
    return save(tensors, {"format": "pt", HEADER: text, CHECKSUM: _checksum(tensors, text)})


def read_weights_file(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file; of one of ours {"model": tensors, "config": ..., "metadata": ...}.

    Raises:
        RuntimeError: The file is one of ours and its checksum is wrong.
    """
    header = _read_header(path)
    tensors = load_file(path)
    if HEADER not in header:
        return tensors
    if header.get(CHECKSUM) != _checksum(tensors, header[HEADER]):
        raise RuntimeError("its checksum is wrong")
    return {"model": tensors, **_from_json(header[HEADER])}


def read_weights_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of the run in a safetensors file of ours, without reading tensors; {} for another file."""
    header = _read_header(path)
    return _from_json(header[HEADER])["metadata"] if HEADER in header else {}


def _read_header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return a CRC-32 of the text, and of name, type, shape and values of every tensor."""
    crc = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def to_json(value: Any) -> Any:
    """Return a value in the kinds that JSON has, see `weights_file_content`. Raises TypeError."""
    if isinstance(value, tuple):
        return {TUPLE: [to_json(each) for each in value]}
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(each) for key, each in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} {shorten(value, 40)}")


def _from_json(text: str) -> Any:
    return json.loads(text, object_hook=lambda item: tuple(item[TUPLE]) if item.keys() == {TUPLE} else item)
