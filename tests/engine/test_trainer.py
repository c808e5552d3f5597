"""The training loop on a handful of generated images: resuming, failures, losses."""

import json
import shutil

import pytest
import torch
from tiny_runs import NARROW, logged_losses, read_log

from detbackbones import InputError, build_detector
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.evaluate import Evaluation
from detbackbones.engine.runs import run
from detbackbones.engine.task import build_task
from detbackbones.errors import RunError

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def train(shapes, here):
    def train(**overrides):
        config = load_config(DEFAULT_CONFIG, {"data_root": str(shapes), **NARROW, **overrides})
        return run(config, "test")

    return train


def load(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def test_a_resumed_run_equals_one_that_was_never_stopped(train, here):
    schedule = {"schedule.cosine": False, "log_every": 1, "accumulate": 2, "batch_size": 1}
    train(max_iters=4, work_dir="whole", **schedule)
    train(max_iters=2, work_dir="parts", **schedule)
    train(max_iters=4, work_dir="parts", resume=True, **schedule)
    assert len(logged_losses(here / "parts")) == 4
    assert logged_losses(here / "parts") == logged_losses(here / "whole")
    whole, parts = load(here / "whole"), load(here / "parts")
    assert whole["iteration"] == parts["iteration"] == 4
    for key, value in whole[
        "model"
    ].items():  # to the last bit: Adam turns the last bit of a gradient into a whole step
        assert torch.equal(parts["model"][key], value), key


def test_a_failing_evaluation_leaves_the_last_checkpoint(train, here, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no space left")

    monkeypatch.setattr(Evaluation, "metrics", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        train(max_iters=2, work_dir="run")
    assert load(here / "run")["iteration"] == 2
    monkeypatch.undo()
    monkeypatch.chdir(here)
    metrics = train(max_iters=2, work_dir="run", resume=True)
    assert len(logged_losses(here / "run")) == 2  # nothing is trained again
    assert json.loads((here / "run/metrics.json").read_text()) == metrics
    assert load(here / "run", "best.pt")["best"]["value"] == load(here / "run")["best"]["value"] == metrics["segm/AP"]


def test_accumulated_batches_are_one_step_of_all_their_images(train, capsys):
    train(max_iters=1, batch_size=1, accumulate=2, reference_batch_size=4, **{"optimizer.type": "SGD"})
    assert "learning rate 0.0005 = 0.001 x 2 / 4" in " ".join(capsys.readouterr().out.split())


def test_a_loss_that_is_not_finite_names_the_images(train):
    diverging = {"optimizer.type": "SGD", "optimizer.lr": 1e30, "schedule.warmup_iters": 0, "clip_grad_norm": None}
    with pytest.raises(RunError, match=r"not finite at iteration \d, images \[\d+, \d+\]: loss (nan|inf)") as error:
        train(max_iters=3, **diverging)
    assert "\n" not in str(error.value)


def test_an_unreadable_image_stops_the_run_or_is_skipped(train, shapes, here, capsys):
    shutil.copytree(shapes, here / "data")
    victim = here / "data/images/train_001003.jpg"
    victim.write_bytes(victim.read_bytes()[:500])
    with pytest.raises(InputError, match=r"train_001003\.jpg"):
        train(max_iters=1, data_root="data")
    assert not (here / "runs").exists()
    train(max_iters=1, data_root="data", skip_unreadable=True)
    printed = capsys.readouterr().out
    assert "left out 1 image(s)" in printed
    assert "train_001003.jpg" in printed.replace("\n", "")


def test_no_readable_image_at_all(train, shapes, here):
    shutil.copytree(shapes, here / "data")
    for path in (here / "data/images").glob("train_*.jpg"):
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="no image with a usable object.*12 x unreadable.*train_"):
        train(max_iters=1, data_root="data", skip_unreadable=True)


def test_validation_data_without_a_readable_image(train, shapes, here):
    shutil.copytree(shapes, here / "data")
    for path in (here / "data/images").glob("val_*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match="instances_val.json has no readable image"):
        train(max_iters=1, data_root="data", skip_unreadable=True)
    assert not (here / "runs").exists()


def retinanet_values(shapes):
    paths = {split: {"ann_file": f"instances_{split}.json", "image_dir": "images"} for split in ("train", "val")}
    model = {"type": "retinanet", "backbone": "resnet18", "neck": {"type": "fpn", "out_channels": 8}}
    small = {"batch_size": 2, "workers": 0, "short_side": None, "max_iters": 1}
    return {"model": model, "data_root": str(shapes), "optimizer": {"type": "SGD", "lr": 0.01}, **paths, **small}


@pytest.mark.parametrize("kind, num_losses", [("mask_rcnn", 5), ("retinanet", 2)])
def test_validation_losses_are_those_of_the_model(kind, num_losses, shapes, here):
    values = load_config(DEFAULT_CONFIG, {"data_root": str(shapes), **NARROW}).model_dump()
    config = load_config(
        values if kind == "mask_rcnn" else retinanet_values(shapes),
        {"max_iters": 1, "val_loss": True, "work_dir": "run"},
    )
    run(config)
    (entry,) = [entry for entry in read_log(here / "run") if "val_loss" in entry]
    parts = {name: value for name, value in entry.items() if name.startswith("val_") and name != "val_loss"}
    assert len(parts) == num_losses
    assert entry["val_loss"] == pytest.approx(sum(parts.values()), rel=1e-5)

    saved = load(here / "run")
    model = build_detector(saved["config"]["model"], num_classes=5).eval()
    model.load_state_dict(saved["model"])
    task = build_task(config)
    dataset = task.validation_loss_dataset(task.open_split("val"))
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [sum(task.losses(model, [dataset[index, 0]]).values()).item() for index in range(len(dataset))]
    assert entry["val_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
