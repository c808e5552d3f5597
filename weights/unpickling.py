"""Read pickles of NumPy arrays, as detectron2 and Caffe2 publish weights, without running anything that they contain.

`pickle.load` calls whatever a file names. Here every name resolves to a function of this module or is refused, so
neither NumPy's nor anybody else's code sees what a file says before it is checked.
"""

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError, shorten
from .file_problems import TORCH_MAGIC, describe_wrong_file

NESTED = ("model", "blobs", "state_dict")  # keys under which the arrays may lie
PLAIN = (str, bytes, bool, int, float, type(None))  # kinds of values beside the arrays, such as __author__
DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|[?bBhHiIlLqQefdFD])")
REFUSED_OPCODES = {"PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"}
ALLOWED = "only NumPy arrays of numbers in dicts are read from a pickle; nothing in it was run"


def read_array_pickle(path: Path) -> dict[str, Any]:
    """Return the content of a pickle of NumPy arrays, of Python 2 or 3.

    Returns:
        A dict from names to arrays, as in the file. It may lie under the key "model" or "blobs", and texts and numbers
        such as `__author__` may stand beside it.

    Raises:
        InputError: The pickle wants to import anything but what arrays of numbers need, is damaged, or holds anything
            else. The message says what.
    """
    problem = describe_wrong_file(path)
    if problem:
        raise InputError(f"cannot read weights file {shorten(path)}: it is {problem}")
    data = path.read_bytes()
    try:
        _check_opcodes(data)
        return _checked(_ArrayUnpickler(data).load())
    except InputError as error:
        raise InputError(f"weights file {shorten(path)} is refused: {error}") from None
    except Exception as error:  # damaged pickles raise many kinds
        problem = f"it is a pickle that is cut off or damaged ({type(error).__name__})"
        raise InputError(f"cannot read weights file {shorten(path)}: {problem}") from None


def is_plain_pickle(path: Path) -> bool:
    """Return whether a file is a pickle by its content or its name, and not a file of `torch.save`."""
    with open(path, "rb") as file:
        head = file.read(32)
    is_torch = head.startswith(b"PK") or TORCH_MAGIC in head
    return not is_torch and (head.startswith(b"\x80") or path.suffix == ".pkl")


def _check_opcodes(data: bytes) -> None:
    """Refuse what would make the unpickler reserve memory beyond the size of the file, and other ways to build objects.

    `pickletools.genops` runs nothing, and it fails where a declared length exceeds the file. Writers number what they
    memorise one by one, so a large number only serves to reserve memory.
    """
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name in REFUSED_OPCODES:
            what = f" of {shorten(argument)}" if argument else ""
            raise InputError(f"it builds an object{what} (opcode {name} at byte {position}), and {ALLOWED}")
        if name.endswith("PUT") and int(argument or 0) > count:
            raise InputError(f"it reserves memory for {argument} values (opcode {name} at byte {position})")


class _Array:
    """Stands for an array until its state arrives."""

    __slots__ = ("unpickler", "value")

    def __init__(self, unpickler: "_ArrayUnpickler"):
        self.unpickler = unpickler
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state  # the first is the version of the format
        self.value = self.unpickler.array(content, dtype, shape, "F" if is_fortran else "C")


class _DType:
    """Stands for a dtype of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any):
        if not isinstance(code, str) or not DTYPE.fullmatch(code):
            kind = "objects" if code in ("O", "O8", "|O") else f"type {shorten(code)}"
            raise InputError(f"it holds an array of {kind}, and {ALLOWED}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, *structure = state[1:5]
        if any(part is not None for part in structure):
            raise InputError(f"it holds an array of records, and {ALLOWED}")
        self.dtype = self.dtype.newbyteorder(order)


class _Function:
    """A callable on which a pickle cannot set attributes."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise InputError(f"it sets attributes of a function, and {ALLOWED}")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler whose names resolve to functions that build plain arrays."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.budget = 2 * len(data)  # arrays and the bytes that they are made of
        self.names: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _Function(self._refuse_ndarray),
            ("numpy", "dtype"): _Function(self._dtype),
            ("_codecs", "encode"): _Function(self._encode),
            ("collections", "OrderedDict"): OrderedDict,
        }
        for module in ("numpy.core", "numpy._core"):
            self.names[f"{module}.multiarray", "_reconstruct"] = _Function(self._reconstruct)
            self.names[f"{module}.multiarray", "scalar"] = _Function(self._scalar)
            self.names[f"{module}.numeric", "_frombuffer"] = _Function(self.array)  # protocol 5

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise InputError(f"it wants to import {shorten(f'{module}.{name}')}, and {ALLOWED}") from None

    def array(self, content: Any, dtype: Any, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
        """Return an array of its own memory from the bytes of its values."""
        if not isinstance(dtype, _DType):
            raise InputError(f"it holds an array without a type of numbers, and {ALLOWED}")
        if isinstance(content, str):  # bytes of Python 2
            content = content.encode("latin1")
        self._spend(len(content))
        values = np.frombuffer(content, dtype.dtype)
        return values.reshape(shape, order=order).astype(dtype.dtype.newbyteorder("="))

    def _reconstruct(self, subtype: Any, shape: Any, code: Any) -> _Array:
        if subtype is not self.names["numpy", "ndarray"]:
            raise InputError(f"it holds an array of another class, and {ALLOWED}")
        return _Array(self)  # the state brings shape and type

    def _scalar(self, dtype: Any, content: Any) -> np.ndarray:
        return self.array(content, dtype, ())

    def _dtype(self, code: Any, align: Any = False, copy: Any = False) -> _DType:
        return _DType(code)

    def _encode(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise InputError(f"it encodes text as {shorten(encoding)}, and {ALLOWED}")
        self._spend(len(text))
        return text.encode("latin1")

    def _refuse_ndarray(self, *arguments: Any) -> Any:
        raise InputError(f"it calls numpy.ndarray, and {ALLOWED}")

    def _spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise InputError("its arrays need more memory than the file has bytes")


def _checked(content: Any, where: str = "it") -> dict[str, Any]:
    """Return a dict of arrays with the stand-ins replaced."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where} holds a {type(content).__name__}, and a dict from names to arrays was expected")
    result: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            raise InputError(f"{where} has the key {shorten(key)}, and names were expected")
        if isinstance(value, _Array):
            if value.value is None:
                raise InputError(f"{shorten(key)} is an array without values")
            result[key] = value.value
        elif key in NESTED and where == "it":
            result[key] = _checked(value, f"{key!r} in it")
        elif isinstance(value, (np.ndarray, *PLAIN)):
            result[key] = value
        else:
            raise InputError(f"{shorten(key)} is a {type(value).__name__}, and {ALLOWED}")
    return result
