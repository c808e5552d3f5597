"""download: what comes is what was asked for, it comes once, and it lies where torchvision and timm look for it."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from helpers import input_error

from detbackbones.weights.download_cache import cache_path, hash_in_name
from detbackbones.weights.downloads import download


def files(folder: Path) -> set[str]:
    """Return the names of the files below a folder, without locks."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_file_with_its_hash_in_its_name_is_downloaded_once(server, hub_cache, hashed_name):
    for _ in range(2):
        path = download(f"{server.base}/models/{hashed_name}")
    assert path == hub_cache / hashed_name
    assert path.read_bytes() == server.content
    assert [path for path, _ in server.requests] == [f"/models/{hashed_name}"]
    assert files(hub_cache) == {hashed_name}


def test_torch_hub_finds_the_file_and_the_other_way_round(server, tmp_path):
    torch.save({"weight": torch.arange(3)}, tmp_path / "w.pth")
    server.content = (tmp_path / "w.pth").read_bytes()
    name = f"net-{hashlib.sha256(server.content).hexdigest()[:8]}.pth"
    url = f"{server.base}/{name}"
    torch.hub.load_state_dict_from_url(url, check_hash=True, progress=False)
    path = download(url)
    path.unlink()
    download(url)
    assert torch.hub.load_state_dict_from_url(url, weights_only=True)["weight"].tolist() == [0, 1, 2]
    assert len(server.requests) == 2


def test_a_file_without_hash_is_checked_against_its_first_download(server, hub_cache):
    url = f"{server.base}/detectron2/137849600/model_final.pth"
    path = download(url)
    assert path.relative_to(hub_cache).parts[1:] == ("detectron2", "137849600", "model_final.pth")
    recorded = json.loads(path.with_name("model_final.pth.json").read_text())
    assert recorded["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert recorded["length"] == len(server.content)
    download(url)
    assert len(server.requests) == 1
    path.write_bytes(server.content[:-1] + b"?")  # one byte has changed
    assert download(url).read_bytes() == server.content
    assert len(server.requests) == 2


def test_two_files_of_one_name_do_not_meet(server):
    first = download(f"{server.base}/a/model_final.pth")
    server.content = random.Random(1).randbytes(1000)
    second = download(f"{server.base}/b/model_final.pth")
    assert first.read_bytes() != second.read_bytes() == server.content
    assert cache_path("https://a.example/get?id=1") != cache_path("https://a.example/get?id=2")


@pytest.mark.parametrize("damage", [b"", b"half of a download", b"<!doctype html><p>log in</p>"])
def test_a_damaged_file_in_the_cache_is_replaced(server, hub_cache, hashed_name, damage, capsys):
    hub_cache.mkdir(parents=True)
    (hub_cache / hashed_name).write_bytes(damage)
    assert download(f"{server.base}/{hashed_name}").read_bytes() == server.content
    assert f"{hashed_name} is damaged" in capsys.readouterr().err
    assert files(hub_cache) == {hashed_name, f"{hashed_name}.damaged"}


def test_a_file_put_there_by_hand_is_used(hub_cache):
    url = "https://nowhere.invalid/model.yaml"
    cache_path(url).parent.mkdir(parents=True)
    cache_path(url).write_text("MODEL: {}")
    assert download(url).read_text() == "MODEL: {}"


def test_the_hash_can_be_given(server, hub_cache):
    digest = hashlib.sha256(server.content).hexdigest()
    assert download(f"{server.base}/a.pth", sha256_prefix=digest.upper(), name="x/b.pth") == hub_cache / "x" / "b.pth"
    with input_error("c.pth", "SHA-256 begins with", "0000000000000000 was expected"):
        download(f"{server.base}/c.pth", sha256_prefix="0" * 16)
    wrong = download(f"{server.base}/net-00000000.pth", sha256_prefix="")  # a name that only looks like a hash
    assert wrong.read_bytes() == server.content


@pytest.mark.parametrize(
    "name,digits",
    [
        ("resnet18-f37072fd.pth", "f37072fd"),
        ("mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth", "d4b0c5d6"),
        ("a1-0123456789abcdef.safetensors", "0123456789abcdef"),
        ("model_final_f10217.pkl", ""),
        ("R-50.pkl", ""),
        ("net-f37072fd", ""),
        ("net-f37072fd.d/model.pth", ""),
        ("net-F37072FD.pth", ""),
    ],
)
def test_hashes_in_names(name, digits):
    assert hash_in_name(name) == digits


@pytest.mark.parametrize("name", ["../x.pth", "/x.pth", "a/../../x.pth"])
def test_names_stay_in_the_cache(server, name):
    with input_error(name, "below"):
        download(f"{server.base}/x.pth", name=name)


def test_an_address_cannot_leave_the_cache(hub_cache):
    with input_error("x.pth", "below"):
        download("https://a.example/%2e%2e/%2e%2e/x.pth")


@pytest.mark.parametrize("url", ["resnet50", "ftp://a.example/x.pth", "https://a.example/", "https://a.example", ""])
def test_what_is_not_the_url_of_a_file(url):
    with input_error("is not the URL of a file"):
        download(url)


def test_a_file_url_is_used_in_place(tmp_path, hub_cache):
    path = tmp_path / "a folder" / "w.pth"
    path.parent.mkdir()
    torch.save({}, path)
    assert download(path.as_uri()) == path
    assert not hub_cache.exists()
    with input_error(path.name, "0000 was expected"):
        download(path.as_uri(), sha256_prefix="0000")
    path.unlink()
    with input_error(path.as_uri(), "does not exist"):
        download(path.as_uri())


def test_a_mirror_on_a_server(server, hub_cache, hashed_name, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_MIRROR", f"{server.base}/mirror/")
    path = download(f"https://download.pytorch.org/models/{hashed_name}?download=true")
    assert server.requests[0][0] == f"/mirror/models/{hashed_name}?download=true"
    assert path == hub_cache / hashed_name
    path = download("https://dl.fbaipublicfiles.com/detectron2/R-50.pkl.bak")  # named as without a mirror
    assert path == hub_cache / "dl.fbaipublicfiles.com" / "detectron2" / "R-50.pkl.bak"


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_mirror_that_is_a_folder(tmp_path, hub_cache, monkeypatch, as_uri):
    path = tmp_path / "mirror" / "models" / "w.pth"
    path.parent.mkdir(parents=True)
    torch.save({}, path)
    monkeypatch.setenv("DETBACKBONES_MIRROR", path.parent.parent.as_uri() if as_uri else str(path.parent.parent))
    assert download("https://download.pytorch.org/models/w.pth") == path
    with input_error("other.pth", "does not exist"):
        download("https://download.pytorch.org/models/other.pth")


def test_the_endpoint_of_the_hub(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    monkeypatch.setenv("DETBACKBONES_MIRROR", "https://nowhere.invalid")
    download("https://huggingface.co/a/b/resolve/main/model.safetensors")
    assert server.requests[0][0] == "/a/b/resolve/main/model.safetensors"
