"""Named weights of torchvision through the downloads: cache, mirror, and what is said without a connection."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from file_server import drop
from helpers import input_error

from detbackbones import build_backbone

NAME = "torchvision:IMAGENET1K_V1"


@pytest.fixture
def published(hub_cache, resnet18_weights, monkeypatch) -> Path:
    """Path in the empty cache of random weights that torchvision seems to publish: their hash is in the name."""
    digest = hashlib.sha256(Path(resnet18_weights).read_bytes()).hexdigest()
    url = f"https://download.pytorch.org/models/resnet18-{digest[:8]}.pth"
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
    return hub_cache / url.rsplit("/", 1)[1]


@pytest.fixture
def is_loaded(resnet18_weights):
    expected = torch.load(resnet18_weights, weights_only=True)

    def compare(backbone) -> bool:
        state = backbone.state_dict()
        return all(torch.equal(state[key], expected[key]) for key in state if not key.endswith("num_batches_tracked"))

    return compare


def test_files_in_torchvisions_cache_are_found(published, resnet18_weights, is_loaded):
    published.parent.mkdir(parents=True)
    published.write_bytes(Path(resnet18_weights).read_bytes())
    assert is_loaded(build_backbone("resnet18", weights=NAME))


def test_a_mirror_and_a_copy_that_was_interrupted(published, resnet18_weights, is_loaded, server, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_MIRROR", server.base)
    server.content = Path(resnet18_weights).read_bytes()
    server.faults = [drop(1000)]
    assert is_loaded(build_backbone("resnet18", weights=NAME))
    assert server.requests[0][0] == f"/models/{published.name}"
    published.write_bytes(server.content[:1000])
    assert is_loaded(build_backbone("resnet18", weights=NAME))


def test_without_a_connection_the_error_names_the_place_of_the_file(published, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_MIRROR", "http://127.0.0.1:1")
    with input_error("refused", f"http://127.0.0.1:1/models/{published.name}", str(published.parent), published.name):
        build_backbone("resnet18", weights=NAME)


def test_a_mirror_with_other_weights(published, server, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_MIRROR", server.base)
    with input_error(published.name, "SHA-256"):
        build_backbone("resnet18", weights=NAME)
    assert not published.exists()
