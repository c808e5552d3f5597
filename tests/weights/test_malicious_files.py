"""Files that would run code if they were read without care: refused in one line, and nothing runs."""

import json
import pickle
import re
import struct
import zipfile

import pytest
import torch
from helpers import input_error
from malicious import MARKER, WRITERS, payloads, write_pickle
from tiny_runs import NARROW, words

from detbackbones import build_backbone
from detbackbones.engine.checkpoint import read_checkpoint
from detbackbones.tools.train_coco import main
from detbackbones.weights.sources import read_content, read_metadata, read_network_file

NAMES = ["exec", "os.system", "open", "os.mkdir"]


@pytest.mark.parametrize("payload", NAMES)
def test_the_payloads_work(tmp_path, payload):
    """Without care they run: otherwise the other tests would show nothing."""
    write_pickle(tmp_path / "w.pkl", payloads(tmp_path)[payload])
    pickle.loads((tmp_path / "w.pkl").read_bytes())
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", ["torch.pth", "torch_legacy.th", "torch_compressed.pth"])
def test_the_files_of_torch_work(tmp_path, name):
    WRITERS[name](tmp_path / name, payloads(tmp_path)["open"])
    torch.load(tmp_path / name, weights_only=False)
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize("payload", NAMES)
@pytest.mark.parametrize("name", WRITERS)
def test_no_reader_runs_a_payload(tmp_path, name, payload):
    path = tmp_path / name
    WRITERS[name](path, payloads(tmp_path)[payload])
    for read in (read_content, read_network_file, read_checkpoint):
        with input_error(name):
            read(path)
    assert read_metadata(str(path)) == {}
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", ["plain.pkl", "torch.pth", "torch_legacy.th", "tar.pth"])
def test_no_command_runs_a_payload(shapes, here, name, capsys):
    WRITERS[name](here / name, payloads(here)["exec"])
    with input_error(name):
        build_backbone("resnet18", weights=name)
    assert main(words(NARROW | {"data_root": shapes, "init_from": name, "work_dir": "run"})) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and name in errors[0]
    assert not (here / MARKER).exists()
    assert not (here / "run").exists()


@pytest.mark.parametrize("name,wanted", [("plain.pkl", "builtins.exec"), ("torch.pth", "exec")])
def test_the_message_names_what_the_file_wanted(tmp_path, name, wanted):
    WRITERS[name](tmp_path / name, payloads(tmp_path)["exec"])
    with input_error(f"wants to import {wanted}", "nothing"):
        read_content(tmp_path / name)


def safetensors(header: dict | bytes, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(shape, begin, end, dtype="F32"):
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"{}", length=2**63),
        safetensors(b"{" + b" " * 200, length=2**40),
        safetensors(entry([2**20, 2**20], 0, 4), bytes(4)),  # a shape beyond the values
        safetensors(entry([2**32, 2**32], 0, 0)),  # whose product is 0 in 64 bits
        safetensors(entry([1], 0, 2**62), bytes(4)),
        safetensors(entry([1], -4, 0), bytes(4)),
        safetensors(entry([2], 0, 4), bytes(4)),
        safetensors(b"[" * 100_000),
        safetensors({"a": entry([1], 0, 4)["w"], "b": entry([1], 0, 4)["w"]}, bytes(4)),  # shared values
    ],
)
def test_headers_of_safetensors_that_lie(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with input_error("w.safetensors"):
        read_content(path)


def test_a_compressed_archive_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1 << 22)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    with input_error("b.pth", "compressed"):
        read_content(tmp_path / "b.pth")


def test_a_tensor_that_repeats_one_value_for_gigabytes(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "w.pth")
    with input_error("w.pth", "w has", "values"):
        read_network_file(tmp_path / "w.pth")


def test_no_code_of_the_package_reads_pickles_in_another_way():
    """`torch.load` is called with weights_only=True, and nothing but the restricted unpickler unpickles."""
    from test_structure import MODULES, ROOT

    for file in MODULES:
        text = file.read_text()
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, f"{file.relative_to(ROOT)}: {call}"
        assert not re.search(r"\bpickle\.loads?\(|allow_pickle=True|weights_only=False|\b(joblib|dill)\b", text), file
