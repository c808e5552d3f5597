"""Training on images that are not 8-bit RGB."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import NARROW, logged_losses

from detbackbones import InputError
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.runs import run
from detbackbones.engine.task import build_task

SIDE = 64


def save_rgba(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels, "RGBA").save(path.with_suffix(".png"))
    return f"{path.name}.png"


def save_array(path: Path, pixels: np.ndarray) -> str:
    np.save(path.with_suffix(".npy"), pixels / np.float32(255))
    return f"{path.name}.npy"


def save_deep_grey(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels[..., 0] * np.uint16(16)).save(path.with_suffix(".png"))
    return f"{path.name}.png"


@pytest.fixture
def write_dataset(here):
    """A function that writes a training and a validation file of bright squares on a dark background."""

    def write(save) -> dict:
        random = np.random.default_rng(0)
        for split in ("train", "val"):
            images, annotations = [], []
            for number in range(4):
                pixels = random.integers(0, 40, (SIDE, SIDE, 4), dtype=np.uint8)
                pixels[16:40, 8:48] += 200
                name = save(here / f"{split}{number}", pixels)
                images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
                box = {"bbox": [8, 16, 40, 24], "area": 960, "iscrowd": 0}
                mask = {"segmentation": [[8, 16, 48, 16, 48, 40, 8, 40]]}
                annotations.append({"id": number + 1, "image_id": number, "category_id": 1, **box, **mask})
            content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
            (here / f"{split}.json").write_text(json.dumps(content))
        paths = {f"{split}.{key}": value for split in ("train", "val") for key, value in (("image_dir", "."),)}
        paths |= {f"{split}.ann_file": f"{split}.json" for split in ("train", "val")}
        return paths | {"data_root": str(here), **NARROW}

    return write


def train(values: dict, **overrides) -> dict[str, float]:
    return run(load_config(DEFAULT_CONFIG, {**values, "max_iters": 2, "log_every": 1, **overrides}), "test")


def load(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


@pytest.mark.parametrize(
    "save,overrides",
    [
        (save_rgba, {"image_channels": 4}),
        (save_array, {"model.backbone.in_channels": 4}),
        (save_deep_grey, {"image_channels": 1, "image_range": (0, 4095)}),
        (save_deep_grey, {}),
    ],
)
def test_a_dataset_trains_resumes_and_is_evaluated(write_dataset, here, save, overrides):
    values = write_dataset(save) | overrides
    metrics = train(values, work_dir="whole")
    train(values, work_dir="parts", max_iters=1)
    train(values, work_dir="parts", resume=True)
    assert logged_losses(here / "parts") == logged_losses(here / "whole")
    state = load(here / "whole")
    assert state["metadata"] == load(here / "parts")["metadata"]
    channels = overrides.get("image_channels", overrides.get("model.backbone.in_channels", 3))
    assert state["config"]["model"]["backbone"].get("in_channels", 3) == channels
    if channels == 3:  # ImageNet's
        assert "image_mean" not in state["metadata"]
    else:
        assert len(state["metadata"]["image_mean"]) == channels
    evaluation = {"eval_only": True, "checkpoint": "whole", "image_range": None}
    assert train(values, work_dir="again", **evaluation) == pytest.approx(metrics, abs=1e-3)
    assert (here / "whole/predictions.png").is_file()


def test_mean_and_std_come_from_the_training_images(write_dataset):
    task = build_task(load_config(DEFAULT_CONFIG, write_dataset(save_rgba) | {"image_channels": 4}))
    dataset = task.open_split("train")
    metadata = task.metadata(dataset)
    pixels = torch.cat([dataset.read(index).flatten(1) for index in range(len(dataset))], dim=1) / 255
    preprocess = task.build_model(metadata, load_weights=False).backbone.preprocess
    torch.testing.assert_close(preprocess.mean.flatten(), pixels.mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(preprocess.std.flatten(), pixels.std(1, correction=0), atol=1e-5, rtol=0)


def test_mean_and_std_come_from_the_config(write_dataset, here):
    values = write_dataset(save_rgba) | {"image_mean": (0.5, 0.4, 0.3), "image_std": (1, 0.2, 0.1)}
    task = build_task(load_config(DEFAULT_CONFIG, values))
    preprocess = task.build_model(task.metadata(task.open_split("train")), load_weights=False).backbone.preprocess
    assert preprocess.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert preprocess.std.flatten().tolist() == pytest.approx([1, 0.2, 0.1])


def test_those_of_rgb_images_and_of_pretrained_weights_are_the_weights_own(write_dataset, resnet18_weights):
    values = write_dataset(save_rgba)
    for overrides in ({}, {"image_channels": 4, "weights": resnet18_weights}):
        task = build_task(load_config(DEFAULT_CONFIG, values | overrides))
        assert "image_mean" not in task.metadata(task.open_split("train"))


@pytest.mark.parametrize(
    "overrides,message",
    [
        ({"image_channels": 0}, "at least 1"),
        ({"image_channels": 4, "model.backbone.in_channels": 3}, "contradicts model.backbone.in_channels=3"),
        ({"image_range": (0, 1, 2)}, "must be (low, high)"),
        ({"image_range": (5, 5)}, "must be (low, high)"),
        ({"image_range": (0, float("nan"))}, "must be (low, high)"),
        ({"image_mean": (0.5, 0.5, 0.5)}, "must be set together"),
        ({"image_mean": (0.5, 0.5), "image_std": (1, 1)}, "3 value(s), one per channel"),
        ({"image_mean": (124, 116, 104), "image_std": (1, 1, 1)}, "between 0 and 1"),
        ({"image_mean": (0.5,) * 3, "image_std": (0, 1, 1)}, "image_std must be"),
        ({"image_channels": 4, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}, "4 value(s)"),
    ],
)
def test_values_that_cannot_be_used(overrides, message):
    with pytest.raises(InputError) as caught:
        load_config(DEFAULT_CONFIG, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("name,value", [("image_range", (0, 100)), ("image_mean", (0.1,) * 4), ("image_channels", 1)])
def test_a_model_is_evaluated_on_images_as_it_was_trained(write_dataset, here, name, value):
    values = write_dataset(save_rgba)
    train(values, image_channels=4, work_dir="run", max_iters=1)
    changed = {name: value} | ({"image_std": (0.1,) * 4} if name == "image_mean" else {})
    changed |= {"image_channels": 4} if name != "image_channels" else {}
    with pytest.raises(InputError, match=name):
        train(values, eval_only=True, checkpoint="run", **changed)


def test_images_with_other_channels_are_found_before_training(write_dataset, here):
    values = write_dataset(save_array)
    with pytest.raises(InputError, match=r"it has 4 channel\(s\), expected 3; set image_channels=4"):
        train(values, work_dir="run")
    assert not (here / "run").exists()
