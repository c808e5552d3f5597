"""Pickles of arrays: those of Python 2 and 3 come back exactly, and whatever else one holds is refused by name."""

import pickle
import struct
from collections import Counter, OrderedDict
from fractions import Fraction

import numpy as np
import pytest
from helpers import input_error

from detbackbones.weights.unpickling import read_array_pickle

RANDOM = np.random.RandomState(0)
ARRAYS = {
    "float32": RANDOM.standard_normal((4, 3, 2)).astype("f4"),
    "float64": RANDOM.standard_normal(3),
    "float16": np.arange(4, dtype="f2"),
    "int64": np.array([2**40, -1]),
    "uint8": np.arange(256, dtype="u1"),
    "bool": np.array([True, False]),
    "big endian": np.arange(5, dtype=">f4"),
    "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "not contiguous": np.arange(12.0).reshape(3, 4)[:, ::2],
    "0-d": np.array(7),
    "scalar": np.float32(0.5),
}


def same(a, b) -> bool:
    b = np.asarray(b)
    return (
        isinstance(a, np.ndarray)
        and a.dtype == b.dtype.newbyteorder("=")
        and np.array_equal(a, b)
        and a.shape == b.shape
    )


def write(path, content, protocol=2):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_from_every_protocol(tmp_path, protocol):
    content = {"model": OrderedDict(ARRAYS), "__author__": "somebody", "matching_heuristics": True}
    result = read_array_pickle(write(tmp_path / "w.pkl", content, protocol))
    assert result.keys() == content.keys()
    assert (result["__author__"], result["matching_heuristics"]) == ("somebody", True)
    assert list(result["model"]) == list(ARRAYS)
    assert all(same(result["model"][key], value) for key, value in ARRAYS.items())
    result["model"]["float32"][0] = 1  # they can be written to, as torch.from_numpy wants


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_both_spellings_of_numpy(tmp_path, module):
    content = pickle.dumps({"w": ARRAYS["float32"]}, protocol=0)
    content = content.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module.encode())
    assert same(read_array_pickle(write(tmp_path / "w.pkl", content))["w"], ARRAYS["float32"])


def python2_pickle(name: bytes, array: np.ndarray) -> bytes:
    """Return what Python 2's `cPickle.dumps({"blobs": {name: array}}, 2)` writes for a vector, opcode by opcode."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    state = b"(K\x01K" + bytes([len(array)]) + b"\x85"  # version of the format, shape
    state += b"cnumpy\ndtype\nq\x05" + text(array.dtype.str[1:].encode()) + b"K\x00K\x01\x87R"
    state += b"(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # byte order, no fields
    state += b"\x89" + text(array.tobytes()) + b"t"  # C order, values
    empty = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85" + text(b"b") + b"\x87R"
    return b"\x80\x02}q\x01" + text(b"blobs") + b"}q\x02" + text(name) + empty + state + b"bss."


def test_a_pickle_of_python_2(tmp_path):
    values = np.array([1.5, -2.0, 3e-38, 1e38], "f4")  # bytes beyond ASCII
    content = python2_pickle(b"conv1_w", values)
    assert np.array_equal(pickle.loads(content, encoding="latin1")["blobs"]["conv1_w"], values)
    result = read_array_pickle(write(tmp_path / "w.pkl", content))
    assert same(result["blobs"]["conv1_w"], values)


class Subclass(np.ndarray):
    pass


RECORDS = np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])


@pytest.mark.parametrize(
    "value,words",
    [
        (np.array([{}], dtype=object), ["array of objects"]),
        (np.array(["text"]), ["array of type U4"]),
        (np.array(["2020-01-01"], "M8[D]"), ["array of type M8"]),
        (RECORDS, ["array of type V8"]),
        (np.zeros(1).view(Subclass), ["Subclass"]),
        (np.ma.array([1.0]), ["numpy.ma"]),
        (Fraction(1), ["fractions.Fraction"]),
        (Counter(), ["collections.Counter"]),
        (np.random.RandomState(0), ["numpy.random"]),
        (np.load, ["wants to import numpy"]),
        (eval, ["builtin", ".eval"]),
        (complex(1), ["builtin", ".complex"]),
        ({1, 2}, ["set"]),
        ([np.zeros(1)], ["list"]),
        ((1,), ["tuple"]),
        ({"a": np.zeros(1)}, ["dict"]),
        (np.ndarray, ["_Function"]),
    ],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_values_are_refused_by_name(tmp_path, value, words, protocol):
    with input_error("w.pkl", *words):
        read_array_pickle(write(tmp_path / "w.pkl", {"model": {"w": value}}, protocol))


@pytest.mark.parametrize("content", [[np.zeros(1)], np.zeros(1), "text", None, {1: np.zeros(1)}])
def test_other_structures_are_refused(tmp_path, content):
    with input_error("w.pkl", "expected"):
        read_array_pickle(write(tmp_path / "w.pkl", content))


@pytest.mark.parametrize(
    "code,word",
    [
        (b"(S'true'\nios\nsystem\n.", "os system"),  # INST
        (b"(cos\nsystem\nS'true'\no.", "OBJ"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),  # STACK_GLOBAL with a dot
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "calls numpy.ndarray"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.", "rot13"),
        (b"c_codecs\nencode\n}S'_function'\nNsb.", "AttributeError"),  # BUILD sets attributes
        (b"c_codecs\nencode\n(N}S'_function'\nNstb.", "attributes of a function"),
        (b"ccollections\nOrderedDict\n(N}S'update'\nNstb.", "TypeError"),  # likewise, of a class
    ],
)
def test_other_ways_to_run_something(tmp_path, code, word):
    with input_error("w.pkl", word):
        read_array_pickle(write(tmp_path / "w.pkl", code))
    assert OrderedDict.update is not None


def array_code(repeats: int, size: int) -> bytes:
    """Return a pickle that makes many arrays of the same bytes."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
    raw = b"B" + struct.pack("<I", size) + bytes(size) + b"q\x01"
    new = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01J%b\x85%b\x89h\x01tb" % (
        struct.pack("<i", size),
        dtype,
    )
    return b"\x80\x03" + raw + b"0](" + new * repeats + b"e."


@pytest.mark.parametrize(
    "code,word",
    [
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.", "cut off"),  # BINBYTES8 of a terabyte
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.", "cut off"),  # BYTEARRAY8
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.", "cut off"),  # FRAME
        (b"\x80\x02Nr" + struct.pack("<I", (1 << 31) - 1) + b".", "reserves memory"),  # LONG_BINPUT
        (b"Np9999999999\n.", "reserves memory"),
        (array_code(1000, 10_000), "more memory than the file"),
        (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "list"),
    ],
)
def test_bombs(tmp_path, code, word):
    with input_error("w.pkl", word):
        read_array_pickle(write(tmp_path / "w.pkl", code))


def test_a_shape_beyond_the_values(tmp_path):
    content = pickle.dumps({"w": np.zeros(255, "u1")}, protocol=2)
    for shape in (b"M\xff\xff\x85", b"J\xff\xff\xff\x7f\x85", b"K\xffK\xff\x86"):
        changed = content.replace(b"K\xff\x85", shape)
        assert changed != content
        with input_error("w.pkl", "ValueError"):
            read_array_pickle(write(tmp_path / "w.pkl", changed))


def test_flags_of_a_type_are_not_taken_from_the_file(tmp_path):
    """With numpy's own `dtype.__setstate__`, these flags make it count references of what are numbers."""
    content = pickle.dumps({"w": np.arange(3.0)}, protocol=2)
    changed = content.replace(
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00", b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3f"
    )
    assert changed != content
    assert same(read_array_pickle(write(tmp_path / "w.pkl", changed))["w"], np.arange(3.0))


def test_every_cut_is_refused(tmp_path):
    content = pickle.dumps({"model": {"w": np.arange(6.0)}, "__author__": "somebody"}, protocol=2)
    for end in range(len(content)):
        with input_error("w.pkl"):
            read_array_pickle(write(tmp_path / "w.pkl", content[:end]))


def test_random_changes_are_read_or_refused(tmp_path):
    content = pickle.dumps({"model": {"w": np.arange(6.0), "v": np.float32(1)}, "__author__": "x"}, protocol=2)
    random = np.random.RandomState(0)
    for _ in range(300):
        changed = bytearray(content)
        for position in random.randint(0, len(content), 2):
            changed[position] = random.randint(256)
        path = write(tmp_path / "w.pkl", bytes(changed))
        try:
            read_array_pickle(path)
        except ValueError as error:
            assert "w.pkl" in str(error) and "\n" not in str(error)
