"""What decides the weights beside the gradients: parameter groups, learning rates, moving averages, the best model."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import InputError, check_known
from .config import OPTIMIZERS, Schedule, TrainConfig

NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def learning_rate_factor(schedule: Schedule, iteration: int, max_iters: int) -> float:
    """Return the factor on the learning rate of step number `iteration`, counted from 0."""
    if iteration < schedule.warmup_iters:
        done = iteration / schedule.warmup_iters
        return schedule.warmup_factor * (1 - done) + done
    if schedule.cosine:
        remaining = max(1, max_iters - schedule.warmup_iters)
        return 0.5 * (1 + math.cos(math.pi * (iteration - schedule.warmup_iters) / remaining))
    return schedule.gamma ** sum(iteration >= step for step in schedule.steps)


def learning_rate_scale(config: TrainConfig, processes: int, console: Console) -> float:
    """Return the factor on the config's learning rate for the images per step; print the product unless it is 1."""
    lr, reference = config.optimizer["lr"], config.reference_batch_size
    images_per_step = config.batch_size * config.accumulate * processes
    scale = images_per_step / reference
    if scale != 1:
        product = f"{lr * scale:g} = {lr:g} x {images_per_step} / {reference}"
        console.print(f"learning rate {product} (images per step / reference_batch_size)")
    return scale


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, iteration: int) -> float:
    """Set the learning rates of a step, counted from 0; return that of the first parameter group."""
    factor = learning_rate_factor(config.schedule, iteration, config.max_iters)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]


def make_optimizer(config: TrainConfig, model: nn.Module, scale: float) -> torch.optim.Optimizer:
    """Return an optimizer of the trainable parameters, which is fused unless the config sets `fused` or `foreach`.

    Parameters that have the same learning rate and weight decay are one group, in the order of the model; groups with
    the config's learning rate come before those of the backbone.

    Args:
        config: has `optimizer`, `norm_decay`, `bias_decay` and `backbone_lr_factor`.
        model: the model.
        scale: factor on the learning rate.

    Raises:
        InputError: `backbone_lr_factor` is set, and the model does not have a `backbone` with trainable parameters.
    """
    arguments = {key: value for key, value in config.optimizer.items() if key != "type"}
    arguments["lr"] = base_lr = config.optimizer["lr"] * scale
    if not {"fused", "foreach"} & arguments.keys():
        arguments["fused"] = True
    groups: dict[tuple[float, float | None], list[nn.Parameter]] = {}
    for parameter, decay, lr_factor in _trainable_parameters(config, model):
        groups.setdefault((lr_factor, decay), []).append(parameter)
    settings = []
    for (lr_factor, decay), parameters in sorted(groups.items(), key=lambda item: item[0][0] != 1):
        group = {"params": parameters, "lr": base_lr * lr_factor, "base_lr": base_lr * lr_factor}
        settings.append(group if decay is None else group | {"weight_decay": decay})
    return OPTIMIZERS[config.optimizer["type"]](settings, **arguments)


def _trainable_parameters(config: TrainConfig, model: nn.Module) -> Iterator[tuple[nn.Parameter, float | None, float]]:
    """Yield parameter, weight decay (None: the optimizer's) and learning-rate factor in the order of the model."""
    backbone = getattr(model, "backbone", None)
    in_backbone = {id(p) for p in backbone.parameters()} if isinstance(backbone, nn.Module) else set()
    if config.backbone_lr_factor != 1 and not any(id(p) in in_backbone for p in model.parameters() if p.requires_grad):
        found = f"backbone_lr_factor={config.backbone_lr_factor:g} needs trainable parameters in model.backbone"
        raise InputError(f"{found}, and {type(model).__name__} has none; leave the key at 1")
    seen: set[int] = set()  # a parameter may have several places
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decay = config.bias_decay if name == "bias" else None
            decay = config.norm_decay if isinstance(module, NORM_LAYERS) else decay
            yield parameter, decay, config.backbone_lr_factor if id(parameter) in in_backbone else 1.0


class ModelAverage(AveragedModel):
    """Exponential moving average of a model's parameters and floating-point buffers; other buffers are copied.

    The first update copies the model, as torchvision's and timm's averages do after their start.

    Args:
        model: the unwrapped model, on its device. If its forward pass runs in mixed precision through Accelerate, so
            does that of the average.
        decay: share of the average that stays per update.

    Attributes:
        module: the average, a model to evaluate and to save.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=partial(_average, get_ema_multi_avg_fn(decay)), use_buffers=True)
        self.module.requires_grad_(False)
        self.n_averaged = self.n_averaged.cpu()  # read in every update, which would wait for a GPU

    def update(self, model: nn.Module) -> None:
        """Take in the weights of the unwrapped model after an optimizer step."""
        self.update_parameters(model)


def _average(moving_average: Any, averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
    """Update tensors of one type; torch would truncate the average of whole numbers, such as counts of batches."""
    if averages[0].is_floating_point():
        moving_average(averages, values, count)
    else:
        torch._foreach_copy_(list(averages), list(values))


class BestMetric:
    """Keep the best value of a metric, and count the evaluations since then.

    Args:
        name: of the metric. Larger is better, except for validation losses, whose names start with "val_".
        patience: evaluations without a better value after which the run ends; None: it never ends for that.

    Attributes:
        value: the best value so far; infinite before the first evaluation.
        stale: evaluations since then.
    """

    def __init__(self, name: str, patience: int | None = None):
        self.name, self.patience = name, patience
        self.sign = -1 if name.startswith("val_") else 1
        self.value, self.stale = -self.sign * math.inf, 0

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Take in the metrics of an evaluation; return whether it is the best so far. NaN never is.

        Raises:
            InputError: The evaluation does not have a metric of that name.
        """
        check_known("best_metric", metrics, self.name)
        is_better = self.sign * metrics[self.name] > self.sign * self.value
        self.value, self.stale = (metrics[self.name], 0) if is_better else (self.value, self.stale + 1)
        return is_better

    @property
    def is_exhausted(self) -> bool:
        """Whether the run ends, because too many evaluations in a row were not better."""
        return self.patience is not None and self.stale >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"name": self.name, "value": self.value, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint; that of another metric is not used."""
        if state["name"] == self.name:
            self.value, self.stale = state["value"], state["stale"]


def check_best_metric(config: TrainConfig, names: Iterable[str]) -> None:
    """Raise InputError if `best_metric` cannot be known by an evaluation.

    Args:
        config: has `best_metric` and `val_loss`.
        names: the metrics of the task; if there are none, they are not known before the first evaluation.
    """
    names, metric = list(names), config.best_metric
    if metric is None:
        return
    if metric.startswith("val_"):
        if not config.val_loss:
            raise InputError(f"best_metric={metric} is a validation loss, which needs val_loss=true")
    elif names:
        check_known("best_metric", names, metric)
