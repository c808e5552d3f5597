"""Objects whose unpickling writes a marker file, and files of every format that hold one."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

MARKER = "payload_has_run"


class Payload:
    """Calls a function with arguments when it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(folder: Path) -> dict[str, Payload]:
    """Return ways of writing the marker into a folder."""
    marker = str(folder / MARKER)
    return {
        "exec": Payload(exec, f"open({marker!r}, 'w')"),
        "os.system": Payload(os.system, f"touch {marker}"),
        "open": Payload(io.open, marker, "w"),
        "os.mkdir": Payload(os.mkdir, marker),
    }


def write_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"model": {"conv1.weight": payload}}))


def write_old_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"blobs": OrderedDict(conv1_w=payload)}, protocol=0))


def write_torch(path: Path, payload: Payload) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "meta": payload}, path)


def write_torch_legacy(path: Path, payload: Payload) -> None:
    torch.save({"state_dict": {}, "meta": payload}, path, _use_new_zipfile_serialization=False)


def write_compressed_torch(path: Path, payload: Payload) -> None:
    """A zip archive with a folder in which the unpickler looks first, compressed as torch does not write it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def write_tar(path: Path, payload: Payload) -> None:
    """The format of torch before 0.1.10: a tar archive of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(payload, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_safetensors_with_pickle(path: Path, payload: Payload) -> None:
    header = pickle.dumps(payload)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


WRITERS = {
    "plain.pkl": write_pickle,
    "caffe2.pkl": write_old_pickle,
    "torch.pkl": write_torch,
    "torch_legacy.pkl": write_torch_legacy,
    "plain.pth": write_pickle,
    "torch.pth": write_torch,
    "torch_legacy.pth": write_torch_legacy,
    "torch.th": write_torch,
    "torch_legacy.th": write_torch_legacy,
    "torch_compressed.pth": write_compressed_torch,
    "torch.bin": write_torch,
    "tar.pth": write_tar,
    "tar.pkl": write_tar,
    "model.safetensors": write_safetensors_with_pickle,
    "plain.safetensors": write_pickle,
    "torch.safetensors": write_torch,
}
