"""Runs that take seconds: a handful of generated images and a very narrow network. Imported by conftest files."""

import json
import socket
from pathlib import Path

import pytest
import torch

from detbackbones.data.shapes import ShapesSpec, ensure_shapes
from detbackbones.engine.checkpoint import read_checkpoint

NARROW = {
    "model.neck.out_channels": 8,
    "model.rpn.post_nms_top_n": (20, 10),
    "model.roi_heads.box_head_dim": 8,
    "model.roi_heads.mask_channels": (8,),
    "model.roi_heads.mask_dim": 8,
    "model.roi_heads.score_thresh": 0.0,
    "batch_size": 2,
    "workers": 0,
}


EXACT = {"optimizer.type": "SGD", "schedule.cosine": False, "log_every": 1}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A dataset in COCO's format of 12 training and 3 validation images of 64 px."""
    return ensure_shapes(ShapesSpec(num_train=12, num_val=3, side=64), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_pictures(monkeypatch):
    """Leave out the drawing of pictures, which takes half of the time of a tiny run."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: None)


def words(values: dict) -> list[str]:
    """Settings as words of a command line."""
    return [f"{key}={value}" for key, value in values.items()]


def free_port() -> int:
    """A port that a launcher can use."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def logged_losses(folder: Path) -> list[float]:
    """The training losses in a run's log."""
    return [entry["loss"] for entry in read_log(folder) if "loss" in entry]


def assert_same_weights(folder: Path, other: Path) -> None:
    """Compare the weights in the checkpoints of two runs bit for bit."""
    weights, others = (read_checkpoint(path)["model"] for path in (folder, other))
    assert weights.keys() == others.keys()
    different = [key for key, value in weights.items() if not torch.equal(value, others[key])]
    assert not different
