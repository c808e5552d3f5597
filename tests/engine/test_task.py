"""A task that the package does not know, trained with the unchanged engine: which shape, if any, covers each pixel."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from tiny_runs import logged_losses
from torch import nn

from detbackbones import InputError, build_backbone
from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset
from detbackbones.engine.config import TrainConfig, load_config
from detbackbones.engine.runs import run
from detbackbones.engine.task import Task
from detbackbones.registry import TASKS
from detbackbones.tools.train_coco import main


class PixelConfig(TrainConfig):
    data_root: str = Field(description="Folder of the embedded dataset.")


class PixelAccuracy:
    def __init__(self):
        self.correct = self.total = 0

    def update(self, items: Sequence, outputs: Sequence) -> None:
        for (_, target), output in zip(items, outputs, strict=True):
            self.correct += (output == label_map(target)).sum().item()
            self.total += output.numel()

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.correct / self.total}


class PixelClassifier(nn.Module):
    def __init__(self, backbone: dict, num_classes: int):
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.classifier = nn.Conv2d(self.backbone.feature_specs[-1].channels, num_classes, 1)

    def forward(self, images):
        *_, feature = self.backbone(self.backbone.preprocess(images)).values()
        return F.interpolate(self.classifier(feature), images.shape[-2:], mode="bilinear")


def label_map(target: dict) -> torch.Tensor:
    """Label + 1 of the last object on each pixel, 0 for the background."""
    masks = target["masks"].dense()
    labels = torch.zeros(masks.shape[1:], dtype=torch.long, device=masks.device)
    for mask, label in zip(masks, target["labels"], strict=True):
        labels[mask] = label + 1
    return labels


@TASKS.register_module(name="pixels")
class PixelTask(Task):
    config_class = PixelConfig
    main_metric = "accuracy"

    def open_split(self, split):
        root = Path(self.config.data_root)
        annotations = read_annotations(root / f"instances_{split}.json", root / "images")
        return CocoDataset(annotations, training=split == "train")

    def metadata(self, dataset):
        return {"names": dataset.annotations.names}

    def build_model(self, metadata, load_weights):
        return PixelClassifier(self.config.model["backbone"], len(metadata["names"]) + 1)

    def losses(self, model, items):
        losses = [F.cross_entropy(model(image[None]), label_map(target)[None]) for image, target in items]
        return {"loss_pixels": torch.stack(losses).mean()}

    def predict(self, model, items):
        return [model(image[None])[0].argmax(0) for image, _ in items]

    def evaluator(self, dataset):
        return PixelAccuracy()


@pytest.fixture
def config_file(shapes, here) -> str:
    (here / "pixels.py").write_text(
        f"task = 'pixels'\ndata_root = {str(shapes)!r}\nmax_iters = 4\nbatch_size = 4\nreference_batch_size = 4\n"
        "model = dict(backbone=dict(type='resnet18', out_features=('c3',)))\nlog_every = 1\nval_loss = True\n"
        "optimizer = dict(type='AdamW', lr=1e-3)\nworkers = 0\n"
    )
    return "pixels.py"


def test_it_trains_resumes_and_evaluates_on_the_command_line(config_file, here, capsys):
    assert main([config_file, "max_iters=4", "work_dir=whole"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main([config_file, "max_iters=2", "work_dir=parts"]) == 0
    assert main(["resume=true", "max_iters=4", "work_dir=parts"]) == 0
    assert logged_losses(here / "parts") == logged_losses(here / "whole")
    whole, parts = (torch.load(here / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["metadata"]["names"][0]
    for key, value in whole["model"].items():
        assert torch.equal(parts["model"][key], value), key
    assert main(["eval_only=true", "checkpoint=whole", "work_dir=again"]) == 0
    metrics = [json.loads((here / name / "metrics.json").read_text()) for name in ("whole", "parts", "again")]
    assert metrics[0] == metrics[1]
    assert metrics[2]["accuracy"] == pytest.approx(metrics[0]["accuracy"], abs=1e-3)


def test_it_learns_from_python(config_file, here):
    metrics = run(load_config(config_file, {"max_iters": 40, "schedule.cosine": True}), "pixels")
    assert set(metrics) == {"accuracy"}
    losses = logged_losses(here / "runs/pixels-1")
    assert losses[-1] < losses[0] / 4


def test_its_keys_are_checked_and_described(config_file, capsys):
    with pytest.raises(InputError, match="unknown config key 'flip'"):
        load_config(config_file, {"flip": 0.5})
    assert main([config_file, "--help"]) == 0
    assert "data_root = " in capsys.readouterr().out


def test_other_classes_are_refused(config_file, shapes, here):
    assert main([config_file, "max_iters=1", "work_dir=run"]) == 0
    state = torch.load(here / "run/last.pt", weights_only=True)
    torch.save(state | {"metadata": {"names": ["other"]}}, here / "run/last.pt")
    with pytest.raises(InputError, match=r"\['other'\]"):
        run(load_config(config_file, {"work_dir": "run", "resume": True}))
