"""Read files of `torch.save` without running anything that they contain, also checkpoints of mmengine's Runner."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

IGNORED_NAMES = (  # what mmengine and other trainers save beside the weights: loss histories and numbers of NumPy
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # of methods of HistoryBuffer
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64")),
)


class Ignored:
    """Takes the place of an object that is not part of the weights. It keeps nothing and does nothing."""

    def __new__(cls, *arguments: Any) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_torch_file(path: Path) -> Any:
    """Return the content of a file of `torch.save`, read with `weights_only=True`.

    In place of objects of IGNORED_NAMES, which torch refuses, it has objects of class Ignored. The functions that these
    names stand for are not called.

    Raises:
        pickle.UnpicklingError: The file wants to import anything else.
        RuntimeError: It is damaged, or it would unpack to more than its size.
        Exception: Whatever else torch raises for a file that it cannot read.
    """
    if zipfile.is_zipfile(path) and _is_compressed(path):
        raise RuntimeError("it is a compressed archive; torch.save writes archives that are not compressed")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not any(name.removeprefix("builtins.") in str(error) for name in IGNORED_NAMES):
            raise
    with torch.serialization.safe_globals([(Ignored, name) for name in IGNORED_NAMES]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_compressed(path: Path) -> bool:
    """Return whether a zip archive says that its content is longer than the file, as only compressed ones do."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size
    except Exception:  # zipfile raises many kinds for damaged headers
        return False
