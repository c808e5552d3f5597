"""Recognise files that are not weights: error pages, pointers, archives, and downloads that were cut off."""

import json
import re
import struct
import zipfile
from pathlib import Path

HEAD = 4096
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a number near the beginning of files of torch < 1.6
TENSORFLOW_TABLE = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # ends tables of LevelDB's format
HTML = rb"(?is)\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)"
SIGNATURES = (
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
    (rb"(\.\./)*(\.git)?/?annex/objects/", "a git-annex pointer, not the file itself (run `git annex get`)"),
    (HTML, "an HTML page, not the file itself (download it again, with its direct URL)"),
    (rb"\s*<\?xml|\s*<Error>", "an XML page, such as a server sends for an error"),
    (rb"\x1f\x8b", "a gzip file (unpack it first)"),
    (rb"BZh[1-9]", "a bzip2 file (unpack it first)"),
    (rb"\xfd7zXZ\x00", "an xz file (unpack it first)"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file (unpack it first)"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it first)"),
    (rb"Rar!\x1a\x07", "a RAR archive (unpack it first)"),
    (rb"(?s).{257}ustar", "a tar archive (unpack it first)"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes; weights of PyTorch are needed"),
    (rb"(?s).{4}TFL3", "a TensorFlow Lite model; weights of PyTorch are needed"),
    (rb"(?s)\x08[\x01-\x1f](\x12.[ -~]*[\x1a:]|:)", "an ONNX model; weights of PyTorch are needed"),
    (rb"(?s)\x08\x01\x12.{1,3}\n", "a SavedModel of TensorFlow; weights of PyTorch are needed"),
    (rb"GGUF", "a GGUF file; weights of PyTorch are needed"),
    (rb"\x93NUMPY", "a single NumPy array (.npy)"),
    (rb"\xff\xd8\xff|\x89PNG\r\n", "an image"),
)


def describe_wrong_file(path: Path) -> str | None:
    """Return in one line what a file is if it cannot hold weights, such as "an HTML page ...", or None.

    The content decides, not the name. None does not mean that the file can be read.
    """
    if not path.is_file():
        return None
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - 8))
        tail = file.read()
    if not head:
        return "an empty file"
    for pattern, description in SIGNATURES:
        if re.match(pattern, head):
            return description
    if tail == TENSORFLOW_TABLE:
        return "an index file of a TensorFlow checkpoint; weights of PyTorch are needed"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_problem(path)
    if re.match(rb"(?s).{4}\0{4}\{[\s\"}]", head):  # the length of a header below 4 GB, and its beginning
        return _safetensors_problem(path, size)
    if head[0] == 0x80 and TORCH_MAGIC not in head[:32] and not tail.endswith(b"."):
        return f"a pickle that was cut off after {size} bytes (download it again)"
    return _text_problem(head, tail)


def is_html(path: Path) -> bool:
    """Return whether a file is an HTML page, such as a server or a network's login sends in place of a file."""
    with open(path, "rb") as file:
        return re.match(HTML, file.read(HEAD)) is not None


def _zip_problem(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"a file of torch.save that was cut off after {path.stat().st_size} bytes (download it again)"
    except Exception:  # a damaged directory raises many kinds
        return "a damaged zip archive"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript archive; save its state_dict() with torch.save"
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"a zip archive of other files, such as {names[0]!r}" if names else "a zip archive without files"


def _safetensors_problem(path: Path, size: int) -> str | None:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            return f"a safetensors file that was cut off in its header after {size} bytes (download it again)"
        try:
            entries = json.loads(file.read(length))
            end = max((value["data_offsets"][1] for key, value in entries.items() if key != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return "a safetensors file with a damaged header"
    if 8 + length + end > size:
        return f"a safetensors file that was cut off after {size} of {8 + length + end} bytes (download it again)"
    return None


def _text_problem(head: bytes, tail: bytes) -> str | None:
    """Describe text; a pickle of protocol 0 is text that ends in a full stop."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if not all(c.isprintable() or c in "\r\n\t" for c in text):
        return None
    start = text.strip()[:60].splitlines()
    if text.lstrip()[:1] in ("{", "["):
        return f"JSON text that begins with {start[0]!r}"
    return f"text that begins with {start[0] if start else ''!r}" if not tail.endswith(b".") else None
