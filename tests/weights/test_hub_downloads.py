"""download_from_hub against a server that answers as the Hugging Face hub does."""

import hashlib

import pytest
from file_server import drop, status
from helpers import input_error
from huggingface_hub import constants

from detbackbones.weights.hub import download_from_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """A server with one file, whose ETag is its SHA-256, as the hub has it for large files."""
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.headers = {"ETag": f'"{hashlib.sha256(server.content).hexdigest()}"', "X-Repo-Commit": COMMIT}
    return server


def test_a_file_is_downloaded_once(hub):
    path = download_from_hub("a/b", "model.safetensors")
    assert path.read_bytes() == hub.content
    assert hub.requests[0][0] == "/a/b/resolve/main/model.safetensors"
    count = len(hub.requests)
    assert download_from_hub("a/b", "model.safetensors", COMMIT) == path  # a commit never changes
    assert len(hub.requests) == count


def test_a_dropped_connection(hub):
    hub.faults = [lambda handler: handler.send_file(), drop(100_000)]
    assert download_from_hub("a/b", "model.safetensors").read_bytes() == hub.content
    assert len(hub.requests) == 3


@pytest.mark.parametrize("by_git", [False, True])
def test_a_damaged_file_is_downloaded_again(hub, by_git):
    if by_git:  # small files have the hash of Git's blob
        digest = hashlib.sha1(b"blob %d\0" % len(hub.content) + hub.content).hexdigest()
        hub.headers["ETag"] = f'"{digest}"'
    path = download_from_hub("a/b", "model.safetensors", COMMIT)
    damaged = bytes(len(hub.content))
    path.resolve().write_bytes(damaged)
    path = download_from_hub("a/b", "model.safetensors", COMMIT)
    assert path.read_bytes() == hub.content != damaged


def test_a_damaged_file_stays_if_it_cannot_be_replaced(hub):
    path = download_from_hub("a/b", "model.safetensors", COMMIT)
    path.resolve().write_bytes(b"damaged")
    with input_error("model.safetensors is damaged", "local_files_only"):
        download_from_hub("a/b", "model.safetensors", COMMIT, local_files_only=True)
    assert path.read_bytes() == b"damaged"


def test_options(hub, tmp_path):
    path = download_from_hub("a/b", "model.safetensors", COMMIT, cache_dir=tmp_path / "other", token="secret")
    assert path.is_relative_to(tmp_path / "other")
    assert {key.lower(): value for key, value in hub.requests[0][1].items()}["authorization"] == "Bearer secret"
    with input_error("other does not have the file", "local_files_only is set"):
        download_from_hub("a/b", "more.safetensors", cache_dir=tmp_path / "other", local_files_only=True)
    with input_error("cannot download"):
        download_from_hub("a/b", "model.safetensors", token="two\nlines")


def test_a_forced_download_without_a_server(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    download_from_hub("a/b", "model.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with input_error("cannot download", "refused"):
        download_from_hub("a/b", "model.safetensors", force_download=True)


def test_content_that_does_not_match_is_refused(hub, tmp_path):
    hub.headers["ETag"] = f'"{"0" * 64}"'
    with input_error("model.safetensors of a/b", "does not match"):
        download_from_hub("a/b", "model.safetensors")
    assert not [path for path in (tmp_path / "hf").rglob("blobs/*") if path.is_file()]


@pytest.mark.parametrize(
    "code,name,words",
    [
        (401, "RepoNotFound", ["a/b does not exist", "HF_TOKEN"]),
        (404, "RepoNotFound", ["a/b does not exist", "private"]),
        (403, "GatedRepo", ["gated", "accept its terms", "a/b"]),
        (404, "RevisionNotFound", ["revision 'v2' does not exist"]),
        (404, "EntryNotFound", ["the file does not exist", "/a/b/tree/v2"]),
        (403, "Other", ["403"]),
    ],
)
def test_refusals(hub, code, name, words):
    hub.faults = [status(code, X_Error_Code=name)] * 20
    with input_error("cannot download model.safetensors of a/b", *words):
        download_from_hub("a/b", "model.safetensors", "v2")


def test_offline(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's library tries for 23 s
    path = download_from_hub("a/b", "model.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert download_from_hub("a/b", "model.safetensors") == path
    with input_error("other.safetensors", "http://127.0.0.1:1/a/b cannot be reached", "HF_HOME"):
        download_from_hub("a/b", "other.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with input_error("other.safetensors", "HF_HOME"):
        download_from_hub("a/b", "other.safetensors")


@pytest.mark.parametrize("repo", ["a/b/c", "a b", "../a", ""])
def test_names_that_are_not_valid(hub, repo):
    with input_error("cannot download"):
        download_from_hub(repo, "model.safetensors")
