"""What a file is that cannot hold weights is named; weights of every format are not mistaken for something else."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import torch
from helpers import input_error
from safetensors.torch import save as safetensors_bytes

from detbackbones.engine.checkpoint import read_checkpoint
from detbackbones.weights.file_problems import describe_wrong_file
from detbackbones.weights.sources import read_content
from detbackbones.weights.unpickling import is_plain_pickle

STATE = {"conv1.weight": torch.randn(8, 3, 7, 7), "fc.bias": torch.randn(5)}


def written(write, *arguments, **options) -> bytes:
    """Return what a function writes into its last argument."""
    buffer = io.BytesIO()
    write(*arguments, buffer, **options)
    return buffer.getvalue()


def torch_bytes(content, **options) -> bytes:
    return written(torch.save, content, **options)


def zip_bytes(**files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())
    return buffer.getvalue()


def onnx_bytes() -> bytes:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    return onnx.helper.make_model(graph, producer_name="any").SerializeToString()


def numpy_pickle(protocol: int) -> bytes:
    return pickle.dumps({"model": {key: value.numpy() for key, value in STATE.items()}}, protocol)


WEIGHTS = {
    "torch": torch_bytes(STATE),
    "torch, nested": torch_bytes({"state_dict": STATE, "meta": {"epoch": 1}}),
    "torch, old format": torch_bytes(STATE, _use_new_zipfile_serialization=False),
    "safetensors": safetensors_bytes(STATE, {"format": "pt"}),
    "safetensors without tensors": safetensors_bytes({}),
    **{f"pickle {protocol}": numpy_pickle(protocol) for protocol in range(6)},
}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 46830571\n"
S3 = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
WRONG = {
    "empty": (b"", "an empty file"),
    "html": (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "an HTML page"),
    "html with a comment": (b"\n\n<!-- generated -->\n<HTML>", "an HTML page"),
    "lfs": (LFS, "a Git LFS pointer"),
    "annex": (b"/annex/objects/SHA256E-s123--abc.pth\n", "a git-annex pointer"),
    "annex link": (b"../.git/annex/objects/Wx/9k/SHA256E-s123--abc.pth", "a git-annex pointer"),
    "xml": (S3, "an XML page"),
    "json": (b'{"error": "Repository not found"}', 'JSON text that begins with \'{"error"'),
    "text": (b"Entry not found", "text that begins with 'Entry not found'"),
    "tar": (tar_bytes(), "a tar archive"),
    "gzip": (gzip.compress(WEIGHTS["torch"]), "a gzip file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "Keras"),
    "onnx": (onnx_bytes(), "an ONNX model"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model"),
    "tensorflow saved model": (b"\x08\x01\x12\xd4\x07\n\x1b\n\x05Const" + bytes(50), "TensorFlow"),
    "tensorflow index": (bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57), "TensorFlow"),
    "npy": (written(lambda file: np.save(file, np.zeros(3))), "a single NumPy array"),
    "npz": (written(lambda file: np.savez(file, w=np.zeros(3))), "a zip archive of other files, such as 'w.npy'"),
    "zipped": (zip_bytes(**{"model.pth": WEIGHTS["torch"]}), "a zip archive of other files, such as 'model.pth'"),
    "empty zip": (zip_bytes(), "a zip archive without files"),
    "torchscript": (
        zip_bytes(**{"w/data.pkl": b"", "w/constants.pkl": b"", "w/code/a.py": b""}),
        "a TorchScript archive",
    ),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "an image"),
    "zip, cut off": (WEIGHTS["torch"][:-100], "cut off after"),
    "pickle, cut off": (WEIGHTS["pickle 2"][:-100], "cut off after"),
    "safetensors, cut off": (WEIGHTS["safetensors"][:-1], "cut off after"),
    "safetensors, cut off in its header": (WEIGHTS["safetensors"][:30], "cut off in its header"),
    "safetensors, damaged": (WEIGHTS["safetensors"].replace(b"shape", b"sh\0pe"), "damaged header"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_not_mistaken(tmp_path, name):
    path = tmp_path / f"w.{'safetensors' if 'safetensors' in name else 'pkl'}"
    path.write_bytes(WEIGHTS[name])
    assert describe_wrong_file(path) is None
    assert read_content(path) is not None  # and they can be read


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors", ".bin"])
@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_named_by_every_reader(tmp_path, name, suffix):
    content, description = WRONG[name]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert description in describe_wrong_file(path)
    for read in (read_content, read_checkpoint):
        with input_error(path.name, f"it is {describe_wrong_file(path)}"):
            read(path)


def test_torch_files_that_are_cut_off_end_in_one_line(tmp_path):
    for name in ("torch", "torch, old format", "safetensors", "pickle 0", "pickle 2", "pickle 5"):
        path = tmp_path / ("w.safetensors" if name == "safetensors" else "w.pkl")
        whole = WEIGHTS[name]
        for end in range(0, len(whole), len(whole) // 23):
            path.write_bytes(whole[:end])
            with input_error(path.name):
                read_content(path)


def test_the_old_format_of_torch_is_no_plain_pickle(tmp_path):
    (tmp_path / "w.pkl").write_bytes(torch_bytes(STATE, _use_new_zipfile_serialization=False, pickle_protocol=4))
    assert describe_wrong_file(tmp_path / "w.pkl") is None
    assert not is_plain_pickle(tmp_path / "w.pkl")


def test_json_that_is_binary_is_not_text(tmp_path):
    (tmp_path / "w.bin").write_bytes(json.dumps({"a": "b"}).encode() + b"\0\1\2")
    assert describe_wrong_file(tmp_path / "w.bin") is None


def test_a_folder_and_a_missing_file(tmp_path):
    assert describe_wrong_file(tmp_path) is None
    assert describe_wrong_file(tmp_path / "missing") is None
