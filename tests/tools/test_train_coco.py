"""The training command as a user meets it, on a handful of generated images and a very narrow network."""

import json

import pytest
import torch
from PIL import Image
from tiny_runs import NARROW, logged_losses, read_log, words

from detbackbones.engine.config import load_config
from detbackbones.engine.detection import DetectionConfig
from detbackbones.engine.detector_config import DECIDED
from detbackbones.engine.schema import argument_meanings
from detbackbones.registry import (
    BACKBONES,
    DETECTORS,
    NECKS,
    PROPOSAL_GENERATORS,
    ROI_HEADS,
    accepted_arguments,
    lookup,
)
from detbackbones.tools.train_coco import main


@pytest.fixture
def train(shapes, here):
    def train(*arguments):
        return main([f"data_root={shapes}", *words(NARROW), *arguments])

    return train


def test_what_a_run_leaves(train, here, capsys):
    assert train("max_iters=3", "log_every=1", "work_dir=run") == 0
    folder = here / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics)[0] == "bbox/AP"
    assert len([name for name in metrics if name.startswith("segm/")]) == 12
    assert len(metrics) == 24
    losses = [entry for entry in read_log(folder) if "loss" in entry]
    assert [entry["iteration"] for entry in losses] == [1, 2, 3]
    assert all("loss_mask" in entry for entry in losses)
    assert {"iteration": 3, **metrics} in read_log(folder)
    printed = capsys.readouterr().out
    assert "learning rate" in printed
    assert "segm" in printed
    image = Image.open(folder / "predictions.png")
    assert image.width >= 6 * 128  # three images twice, each side of 64 px enlarged
    assert image.height >= 128
    assert len(image.convert("RGB").getcolors(2**24)) > 1000
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["iteration"] == 3
    assert saved["metadata"]["category_ids"] == [2, 7, 13, 44, 90]
    assert load_config(folder / "config.py") == load_config(saved["config"])
    # the best checkpoint, evaluated again from its file alone, scores the same
    assert main(["eval_only=true", f"checkpoint={folder / 'best.pt'}", "work_dir=again"]) == 0
    assert json.loads((here / "again/metrics.json").read_text()) == metrics


def test_runs_are_numbered_and_never_overwritten(train, here, capsys):
    name = "mask_rcnn_resnet18_fpn_short_shapes"
    assert train("max_iters=1") == 0
    assert train("max_iters=1") == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == [f"{name}-1", f"{name}-2"]
    before = (here / f"runs/{name}-1/log.jsonl").read_text()
    assert train("max_iters=1", f"work_dir=runs/{name}-1") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (here / f"runs/{name}-1/log.jsonl").read_text() == before
    assert train("max_iters=2", f"work_dir=runs/{name}-1", "overwrite=true") == 0
    assert read_log(here / f"runs/{name}-1")[-1]["iteration"] == 2
    assert train("max_iters=2", "resume=true") == 0  # the newest run
    assert len(logged_losses(here / f"runs/{name}-2")) == 2


def test_a_saved_run_keeps_its_config_and_not_its_invocation(train, here, capsys):
    assert train("max_iters=1", "work_dir=run", "overwrite=true", "backbone=resnet18_dilated") == 0
    assert main(["resume=true", "work_dir=run", "max_iters=2"]) == 0
    assert len(logged_losses(here / "run")) == 2
    assert main(["resume=true", "work_dir=run", "optimizer.type=SGD"]) == 2
    assert "a run cannot be resumed with other values of optimizer.type AdamW -> SGD" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in (here / "run").iterdir()}
    assert main(["run/config.py", "work_dir=run"]) == 2  # the saved config does not overwrite
    assert main(["eval_only=true", "checkpoint=run/last.pt", "eval_backend=pycocotools"]) == 0
    metrics = json.loads((here / "runs/run-eval-1/metrics.json").read_text())
    assert metrics == pytest.approx(json.loads((here / "run/metrics.json").read_text()))
    assert main(["eval_only=true", "checkpoint=run/last.pt", "work_dir=run"]) == 2
    assert before == {path: path.read_bytes() for path in (here / "run").iterdir()}
    assert main(["eval_only=true", "checkpoint=run/last.pt", "work_dir=run", "overwrite=true"]) == 0
    assert before.keys() == set((here / "run").iterdir())  # new metrics, and the checkpoints are kept


def test_real_coco(coco_tiny, here, capsys):
    """Two iterations of a published 1x config on real images, with a dilated backbone named on the command line."""
    settings = {"data_root": coco_tiny, "weights": "none", "batch_size": 1, "short_side": 64, "max_iters": 2}
    config = "configs/mask_rcnn_resnet50_fpn_1x_coco.py"
    narrow = words({**NARROW, **settings})
    assert main([config, *narrow, "backbone=resnet18_dilated"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "bbox" in printed
    assert "segm" in printed
    assert "learning rate 0.00125 = 0.02 x 1 / 16" in printed
    saved = torch.load(here / "runs/mask_rcnn_resnet50_fpn_1x_coco-1/last.pt", weights_only=True)
    assert len(saved["metadata"]["category_ids"]) == 80
    assert saved["metadata"]["category_ids"][-1] == 90


def test_help_lists_every_key_with_its_meaning(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in DetectionConfig.model_fields.keys() - {"model", "schedule", "train", "val"}:
        assert f"    {name} = " in printed
    for key in ("schedule.cosine", "train.ann_file", "model.rpn.nms_thresh", "model.roi_heads.mask_dim"):
        assert f"    {key} = " in printed
    assert "model.neck.out_channels = 64  (int)\n" in printed
    assert "num_classes" not in printed
    assert max(map(len, printed.splitlines())) <= 120
    assert main(["retinanet_resnet50_fpn_1x_coco", "--help"]) == 0
    assert "model.rpn" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "registry, name",
    [
        (DETECTORS, "faster_rcnn"),
        (DETECTORS, "mask_rcnn"),
        (DETECTORS, "retinanet"),
        (BACKBONES, "resnet50"),
        (BACKBONES, "timm"),
        (NECKS, "fpn"),
        (NECKS, "pafpn"),
        (PROPOSAL_GENERATORS, "rpn"),
        (ROI_HEADS, "standard"),
        (ROI_HEADS, "stage"),
    ],
)
def test_every_argument_has_a_meaning(registry, name):
    factory = lookup(registry, name)
    assert accepted_arguments(factory).keys() - argument_meanings(factory).keys() - DECIDED.keys() == set()


def test_a_run_that_fails_ends_in_one_line(train, capsys):
    diverging = ["optimizer.type=SGD", "optimizer.lr=1e30", "schedule.warmup_iters=0", "clip_grad_norm=none"]
    assert train("max_iters=3", *diverging) == 1
    error = capsys.readouterr().err
    assert "not finite at iteration" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, culprit, suggestion",
    [
        (["mask_rcnn_resnet50_fpn_2x_coco"], "mask_rcnn_resnet50_fpn_2x_coco", "did you mean mask_rcnn_resnet50_fpn_"),
        (["faster_rcnn_resnet50_fpn_1x_coco", "retinanet_resnet50_fpn_1x_coco"], "one config", " and "),
        (["max_iters"], "max_iters", "does not exist"),
        (["backbone=resnet101_dilatd"], "'resnet101_dilatd'", "resnet101_dilated"),
        (["data_root=nowhere"], "nowhere", "does not exist"),
        (["train.ann_file=nowhere.json"], "nowhere.json", "does not exist"),
        (["model.neck.out_channels=0"], "out_channels", "at least 1"),
        (["model.roi_heads.mask_channels=()"], "mask_channels", "()"),
        (["weights=torchvision:IMAGENET1K_V9"], "'IMAGENET1K_V9'", "IMAGENET1K_V1"),
        (["model.backbone.norm=frozen"], "norm", "weights"),
        (["model.backbone.freeze=2"], "freeze", "weights"),
        (["eval_only=true", "checkpoint=nowhere.pt"], "nowhere.pt", "does not exist"),
        (["init_from=nowhere.pt"], "nowhere.pt", "does not exist"),
        (["resume=true"], "resume", "work_dir="),
        (["work_dir=/dev/null/run"], "/dev/null/run", "cannot be created"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, culprit, suggestion, shapes, here, capsys):
    assert main([f"data_root={shapes}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert culprit in error
    assert suggestion in error
    assert error.count("\n") == 1
    assert not list(here.iterdir())
