"""Runs that start from weights of another library are built again when the weights are gone."""

import pickle

import pytest
import torch
import torchvision
from helpers import input_error, randomise
from tiny_runs import EXACT, NARROW, assert_same_weights

from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.runs import run
from detbackbones.engine.task import build_task
from detbackbones.weights.key_maps import DETECTRON2


@pytest.fixture
def write_weights(here):
    """A function that writes a checkpoint of detectron2 without its config into the working directory."""

    def write(name):
        state = randomise(getattr(torchvision.models, name)()).state_dict()
        arrays = {key: value.numpy() for key, value in DETECTRON2.export(state).items() if "num_batches" not in key}
        (here / "theirs.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
        return {"model.backbone.type": name, "weights": "theirs.pkl"}

    return write


def test_a_run_resumes_and_is_evaluated_without_the_weights(shapes, here, write_weights, without_pictures):
    values = {"data_root": str(shapes), "max_iters": 2, **NARROW, **EXACT, "seed": 1}
    values |= write_weights("resnet18") | {"model.backbone.channel_order": "BGR"}
    for folder, iterations in (("whole", 2), ("parts", 1)):
        run(load_config(DEFAULT_CONFIG, values | {"work_dir": folder, "max_iters": iterations}))
    (here / "theirs.pkl").unlink()
    run(load_config(DEFAULT_CONFIG, values | {"work_dir": "parts", "resume": True}))
    assert_same_weights(here / "parts", here / "whole")
    checkpoint = torch.load(here / "whole" / "last.pt", weights_only=True)
    assert checkpoint["metadata"]["image_std"] == pytest.approx([1 / 255] * 3)
    assert checkpoint["config"]["model"]["backbone"]["norm_eps"] == 1e-5
    evaluation = {"eval_only": True, "checkpoint": "whole", "work_dir": "again"}
    assert run(load_config(here / "whole" / "config.py", evaluation))


def test_the_saved_config_says_what_the_weights_settled(shapes, here, write_weights):
    values = {"data_root": str(shapes), **NARROW} | write_weights("resnet50")
    with input_error("theirs.pkl", "stride_in_1x1=True"):
        load_config(DEFAULT_CONFIG, values)
    (here / "config.yaml").write_text("MODEL: {PIXEL_STD: [57.375, 57.12, 58.395]}\n")  # all else is the default
    config = load_config(DEFAULT_CONFIG, values)
    assert config.model["backbone"]["stride_in_1x1"] is True
    task = build_task(config)
    metadata = task.metadata(task.open_split("train"))
    for name in ("theirs.pkl", "config.yaml"):
        (here / name).unlink()
    backbone = task.build_model(metadata, load_weights=False).backbone
    assert backbone.layer2[0].conv1.stride == (2, 2)
    with input_error("stride_in_1x1"):
        load_config(DEFAULT_CONFIG, values | write_weights("resnet50") | {"model.backbone.channel_order": "BGR"})
