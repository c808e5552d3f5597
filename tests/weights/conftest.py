import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serve
from tiny_runs import here, shapes  # noqa: F401  (fixtures)

from detbackbones.weights import transfers


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """The folder of downloads, empty; mirrors and proxies of the machine are not used, and retries come at once."""
    for name in ("DETBACKBONES_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(transfers, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(transfers, "STALL_SECONDS", 0.25)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(hub_cache) -> Iterator[FileServer]:
    """A server of 300 kB that cannot be compressed."""
    with serve(random.Random(0).randbytes(300_000)) as running:
        yield running


@pytest.fixture
def hashed_name(server) -> str:
    """The name of the server's file as torchvision would name it."""
    return f"net-{hashlib.sha256(server.content).hexdigest()[:8]}.pth"
