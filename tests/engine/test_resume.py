"""What a checkpoint must have to go on, what may differ from its config, and how the log continues."""

import json

import pytest
import torch
from helpers import input_error

from detbackbones.engine.config import TrainConfig
from detbackbones.engine.resume import compare_configs, continue_log, resumable_state

STATE = {
    "model": {},
    "config": {},
    "metadata": {},
    "optimizer": {},
    "iteration": 3,
    "samples": 12,
    "evaluated_iteration": 0,
    "best": {},
}


def config(**values) -> TrainConfig:
    model = {"type": "mask_rcnn", "backbone": {"type": "resnet18", "weights": None}}
    settings = {"model": model, "optimizer": {"type": "SGD", "lr": 0.1}, "max_iters": 10}
    return TrainConfig(**settings | values)


def differences(saved: dict, **values) -> list[str]:
    """Compare a config as it is after saving and loading, with other values."""
    return compare_configs(config(**saved).model_dump(), config(**values))


def test_a_checkpoint_has_what_resuming_needs(tmp_path):
    torch.save(STATE, tmp_path / "last.pt")
    assert resumable_state(tmp_path) == STATE


@pytest.mark.parametrize("key", ["optimizer", "iteration", "samples", "evaluated_iteration", "best"])
@pytest.mark.parametrize("value", [None, "text"])
def test_a_checkpoint_without_what_resuming_needs(tmp_path, key, value):
    torch.save(STATE | {key: value}, tmp_path / "last.pt")
    with input_error("cannot be resumed", f"missing: {key}", "init_from="):
        resumable_state(tmp_path)


@pytest.mark.parametrize(
    "saved,values,line",
    [
        ({}, {"batch_size": 4}, "changed: batch_size 16 -> 4"),
        ({"max_iters": 5}, {}, "changed: max_iters 5 -> 10"),
        ({"clip_grad_norm": 1.0}, {}, "changed: clip_grad_norm 1.0 -> none"),
        ({}, {"optimizer": {"type": "SGD", "lr": 0.2}}, "changed: optimizer.lr 0.1 -> 0.2"),
        ({}, {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}, "changed: optimizer.momentum none -> 0.9"),
        ({"schedule": {"steps": (3,)}}, {"schedule": {"steps": (3, 6)}}, "changed: schedule.steps [3] -> [3, 6]"),
        ({"init_from": "a.pt"}, {"init_from": "b.pt"}, "ignored: init_from=b.pt, because the weights come from the"),
    ],
)
def test_a_difference_that_is_allowed_or_ignored(saved, values, line):
    (found,) = differences(saved, **values)
    assert found.startswith(line)


@pytest.mark.parametrize(
    "saved,values",
    [
        ({}, {}),
        ({"init_from": "a.pt"}, {}),  # it was needed at the start only
        ({"init_from": "a.pt"}, {"init_from": "a.pt"}),
        ({"schedule": {"steps": (3, 6)}}, {"schedule": {"steps": [3, 6]}}),
        ({"published": {"box_ap": 41.0}}, {"published": {"box_ap": 42.0}}),
        ({}, {"work_dir": "a", "resume": True}),  # keys of one invocation
    ],
)
def test_what_is_no_difference(saved, values):
    assert differences(saved, **values) == []


def test_initial_weights_are_ignored():
    model = {"type": "mask_rcnn", "backbone": {"type": "resnet18", "weights": "torchvision:IMAGENET1K_V1"}}
    (line,) = differences({}, model=model)
    assert line.startswith("ignored: model.backbone.weights=torchvision:IMAGENET1K_V1, because")
    assert differences({"model": model}) == []


@pytest.mark.parametrize(
    "values,change",
    [
        ({"model": {"type": "mask_rcnn", "backbone": {"type": "resnet34"}}}, "backbone.type resnet18 -> resnet34"),
        ({"model": {"type": "mask_rcnn", "backbone": {"type": "resnet18", "freeze": 2}}}, "backbone.freeze none -> 2"),
        ({"optimizer": {"type": "AdamW", "lr": 0.1}}, "optimizer.type SGD -> AdamW"),
        ({"task": "segmentation"}, "task detection -> segmentation"),
    ],
)
def test_a_difference_that_is_refused(values, change):
    with input_error("cannot be resumed", change, "init_from="):
        differences({}, **values)


def test_keys_that_are_newer_than_the_checkpoint_had_their_default():
    saved = config().model_dump()
    del saved["val_loss"], saved["keep_checkpoints"], saved["schedule"]
    assert compare_configs(saved, config()) == []
    assert compare_configs(saved, config(keep_checkpoints=3)) == ["changed: keep_checkpoints 2 -> 3"]


def test_keys_that_the_config_has_no_more_are_told():
    assert compare_configs(config().model_dump() | {"old_key": 1}, config()) == ["changed: old_key 1 -> none"]


def entry(iteration: int, **values) -> bytes:
    return json.dumps({"iteration": iteration, **values}).encode() + b"\n"


STEPS = [entry(iteration, lr=0.1, loss=1.0) for iteration in (2, 4, 6)]
METRICS = [entry(iteration, box_ap=0.5) for iteration in (2, 4, 6)]


@pytest.mark.parametrize(
    "lines,iteration,is_evaluated_again,kept",
    [
        (STEPS, 6, False, STEPS),
        (STEPS, 5, False, STEPS[:2]),
        (STEPS, 0, False, []),
        ([*STEPS, *METRICS], 4, False, [*STEPS[:2], *METRICS[:2]]),
        ([*STEPS, *METRICS], 4, True, [*STEPS[:2], *METRICS[:1]]),
        ([*STEPS, *STEPS[1:]], 2, False, STEPS[:1]),
        ([*STEPS, entry(6, lr=0.1)[:-4]], 6, False, STEPS),  # torn
        ([*STEPS, entry(6, lr=0.1)[:-1]], 6, False, STEPS),  # whole but for its end
        ([STEPS[0], b"\x00\xff\n", b"[1]\n", b"\n", STEPS[1]], 6, False, STEPS[:2]),
        ([b'{"classes": 3}\n', *STEPS], 2, False, [b'{"classes": 3}\n', STEPS[0]]),
    ],
)
def test_a_log_without_what_is_written_again(tmp_path, lines, iteration, is_evaluated_again, kept):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(lines))
    continue_log(log, iteration, is_evaluated_again)
    assert log.read_bytes() == b"".join(kept)
    assert list(tmp_path.iterdir()) == [log]


def test_a_log_that_can_go_on_is_not_written(tmp_path):
    log = tmp_path / "log.jsonl"
    continue_log(log, 3)
    assert not log.exists()
    log.write_bytes(STEPS[0])
    before = log.stat()
    continue_log(log, 3)
    assert log.stat() == before
