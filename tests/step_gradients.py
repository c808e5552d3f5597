"""Losses and gradients of training steps in one or several processes; run as a script by torchrun."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from double_precision import in_double_precision

from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.console import plain_console
from detbackbones.engine.distributed import make_accelerator
from detbackbones.engine.task import build_task
from detbackbones.engine.trainer import Trainer

SMALL = {  # 0.4 million parameters; images of one size, because padding to other images of a batch changes features
    "transforms": [{"type": "Resize", "size": (64, 64)}],
    "model.backbone.type": "resnet20_cifar",
    "model.backbone.norm": "batch_eval",
    "model.neck.out_channels": 8,
    "model.rpn.post_nms_top_n": (20, 10),
    "model.roi_heads.box_head_dim": 8,
    "model.roi_heads.mask_channels": (8,),
    "model.roi_heads.mask_dim": 8,
    "workers": 0,
    "optimizer.type": "SGD",
    "optimizer.lr": 0.002,
    "schedule.warmup_iters": 0,
    "schedule.cosine": False,
    "clip_grad_norm": None,
}
Steps = list[tuple[dict[str, float], dict[str, torch.Tensor]]]


def steps_of(overrides: dict[str, Any], count: int, states: list | None = None) -> tuple[Steps, list]:
    """Return losses and gradients of consecutive steps in float64, and the weights before each.

    Args:
        overrides: keys of the config.
        count: number of steps.
        states: weights to load before each step; without them the model is trained.
    """
    config = load_config(DEFAULT_CONFIG, SMALL | overrides)
    accelerator = make_accelerator("no")
    task = build_task(config)
    training = task.open_split("train")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        model: Any = in_double_precision(task.build_model(task.metadata(training), load_weights=False), patch)
        return _steps(task, model, training, accelerator, count, states)


def _steps(task: Any, model: Any, training: Any, accelerator: Any, count: int, states: list | None) -> tuple:
    trainer = Trainer(task, model, training, None, plain_console(), accelerator)
    batches = trainer._batches()
    results, trajectory = [], []
    for number in range(count):
        if states is not None:
            trainer.unwrapped_model.load_state_dict(states[number])
        trajectory.append({key: value.clone() for key, value in trainer.unwrapped_model.state_dict().items()})
        losses = trainer.step.backward(batches, number + 1, number * trainer.step.num_images)
        parameters = trainer.unwrapped_model.named_parameters()
        gradients = {name: p.grad.clone() for name, p in parameters if p.grad is not None}
        results.append((losses, gradients))
        if states is None:
            trainer.step.update()
        else:
            trainer.optimizer.zero_grad()
    return results, trajectory


if __name__ == "__main__":
    folder, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    states = torch.load(folder / "states.pt", weights_only=True)
    results, _ = steps_of(arguments, len(states), states)
    if int(make_accelerator("no").process_index) == 0:
        torch.save(results, folder / "results.pt")
