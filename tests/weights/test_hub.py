"""Models on the Hugging Face Hub: a server in this process answers as the Hub does."""

import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
from helpers import input_error, randomise

from detbackbones import Backbone, build_backbone, build_detector
from detbackbones.engine.trained_detector import load_detector

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/resnet18-cells"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /<owner>/<name>/resolve/<revision>/<file> from a folder."""

    protocol_version = "HTTP/1.1"

    def _answer(self, with_body: bool) -> None:
        self.server.requests.append(self.path)
        owner, name, _, revision, file = self.path.strip("/").split("/")
        path = self.server.folder / owner / name / file
        if revision != "main" or not path.is_file():
            code = "EntryNotFound" if path.parent.is_dir() else "RepoNotFound"
            self.send_response(404)
            self.send_header("X-Error-Code", code if revision == "main" else "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, whose `folder` has the repositories; downloads go to an empty cache."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.requests = tmp_path / "hub", []
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(hub):
    """A backbone that the server has."""
    backbone = randomise(build_backbone("resnet18", out_features=("c2", "c3"))).eval()
    backbone.save_pretrained(hub.folder / REPOSITORY)
    return backbone


def same_state(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_model_comes_from_the_hub_once(hub, published):
    loaded = Backbone.from_pretrained(REPOSITORY)
    assert same_state(loaded, published)
    assert loaded.feature_specs == published.feature_specs
    assert f"/{REPOSITORY}/resolve/main/config.json" in hub.requests  # by which the Hub counts downloads
    hub.requests.clear()
    assert same_state(Backbone.from_pretrained(f"hf:{REPOSITORY}", local_files_only=True), published)
    assert hub.requests == []


def test_a_backbone_starts_from_a_saved_model_on_the_hub(hub, published):
    backbone = build_backbone("resnet18", weights=f"hf:{REPOSITORY}", out_features=("c2", "c3"), norm="batch")
    assert same_state(backbone, published)


def test_a_detector_starts_from_a_saved_model_on_the_hub(hub):
    neck = {"type": "fpn", "out_channels": 8, "extra_levels": "conv_on_input"}
    saved = build_detector("retinanet", backbone="resnet18", neck=neck, num_classes=3)
    saved.save_pretrained(hub.folder / REPOSITORY)
    found = load_detector(f"hf:{REPOSITORY}")
    assert same_state(found.model, saved)
    assert found.metadata["category_names"] == ["class 0", "class 1", "class 2"]  # nobody has named them
    assert same_state(build_detector(weights=f"hf:{REPOSITORY}"), saved)


def test_without_a_config_file_on_the_hub(hub, published):
    (hub.folder / REPOSITORY / "config.json").unlink()
    assert same_state(Backbone.from_pretrained(REPOSITORY), published)


@pytest.mark.parametrize(
    "name,options,words",
    [
        ("someone/else", {}, ("/someone/else does not exist", "private")),
        (REPOSITORY, {"revision": "v2"}, ("v2",)),
        (
            REPOSITORY,
            {"local_files_only": True},
            ("model.safetensors", "local_files_only is set", "HF_HOME"),
        ),
        ("no-such-folder", {}, ("no-such-folder does not exist", "owner/name")),
        ("some/deep/folder", {}, ("some/deep/folder does not exist", "owner/name")),
    ],
)
def test_models_that_cannot_be_had(hub, published, name, options, words):
    with input_error(*words):
        Backbone.from_pretrained(name, **options)


def test_a_repository_of_another_library(hub, published):
    (hub.folder / REPOSITORY / "model.safetensors").unlink()
    with input_error("model.safetensors", REPOSITORY):
        Backbone.from_pretrained(REPOSITORY)


def test_a_server_that_is_not_there(hub, published, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between attempts
    hub.shutdown()
    hub.server_close()
    with input_error(REPOSITORY, "cannot download"):
        Backbone.from_pretrained(REPOSITORY)


def test_push_to_hub_uploads_what_save_pretrained_writes(hub, published, monkeypatch):
    uploads = []

    def upload(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, hub.folder / repo_id)
        uploads.append(sorted(path.name for path in Path(folder_path).iterdir()))
        return "url of the commit"

    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo", lambda self, repo_id, **_: type("", (), {"repo_id": repo_id})
    )
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert published.push_to_hub("someone/new") == "url of the commit"
    assert uploads == [["README.md", "config.json", "model.safetensors"]]
    assert same_state(Backbone.from_pretrained("someone/new"), published)
