"""`TrainConfig` has the config keys that all tasks share; `load_config` reads, merges and checks a config.

Type, default, bounds and meaning of a key stand at the key. A task adds keys of its own with a subclass.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from mmengine.config import Config
from pydantic import BaseModel, ConfigDict, Field

from ..errors import InputError, check_known, did_you_mean
from ..registry import TASKS, import_modules, lookup
from .schema import check_part, check_value, validate

if TYPE_CHECKING:
    from .task import Task

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_CONFIG = "mask_rcnn_resnet18_fpn_short_shapes"
ALIASES = {"backbone": "model.backbone.type", "neck": "model.neck.type", "weights": "model.backbone.weights"}
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}

Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Keys(BaseModel):
    """Base class of a group of config keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Schedule(Keys):
    """Learning-rate factor by iteration: linear warm-up, then steps or half a cosine."""

    warmup_iters: Natural = Field(default=0, description="Iterations over which the factor rises linearly to 1.")
    warmup_factor: float = Field(default=0.001, description="Factor at iteration 0, if there is a warm-up.")
    steps: Sequence[int] = Field(default=(), description="Iterations at which the factor is multiplied by `gamma`.")
    gamma: float = Field(default=0.1, description="Factor of each step.")
    cosine: bool = Field(default=False, description="Fall from 1 to 0 along half a cosine instead of in steps.")


class TrainConfig(Keys):
    """The keys of a config that do not depend on the task. Keys with `exclude=True` hold for one invocation only."""

    task: str = Field(default="detection", description="Registered name of the task.")
    imports: str | Sequence[str] = Field(
        default=(),
        description="Modules that register parts of your own, also from the working directory; imported first.",
    )
    model: dict[str, Any] = Field(description="The model's `type` and arguments.")
    optimizer: dict[str, Any] = Field(
        description="`type` (SGD or AdamW) and arguments of a torch optimizer. `lr` is for `reference_batch_size` "
        "images per step; the learning rate follows the real number linearly."
    )
    schedule: Schedule = Field(default=Schedule(), description="Learning-rate schedule.")
    max_iters: Positive = Field(description="Iterations (optimizer steps) of the run.")
    batch_size: Positive = Field(default=16, description="Images per process and forward pass.")
    accumulate: Positive = Field(default=1, description="Forward passes per optimizer step.")
    reference_batch_size: Positive = Field(default=16, description="Images per step that `optimizer.lr` is meant for.")
    clip_grad_norm: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Largest norm of all gradients together; none: no clipping."
    )
    norm_decay: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Weight decay of norm layers; none: that of the optimizer."
    )
    bias_decay: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Weight decay of biases outside norm layers; none: that of the optimizer."
    )
    backbone_lr_factor: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="Factor on the learning rate of the backbone's parameters."
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Evaluate and keep a moving average of the weights: per step, this share of the average stays.",
    )
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="Mixed precision of the forward pass.")
    deterministic: bool = Field(
        default=False,
        description="Deterministic algorithms, slower on a GPU. An operation that does not have one warns and is used, "
        "such as the gradients of deformable convolutions.",
    )
    compile: bool = Field(default=False, description="Run parts of the model through torch.compile.")
    workers: Natural | None = Field(
        default=None, description="Loading processes per training process; none: chosen for the machine."
    )
    skip_unreadable: bool = Field(default=False, description="Skip items that cannot be read instead of stopping.")
    eval_every: Positive | None = Field(
        default=None, description="Iterations between evaluations; none: only at the end."
    )
    val_loss: bool = Field(default=False, description="Log the losses of the validation items at every evaluation.")
    best_metric: str | None = Field(
        default=None,
        description="Metric that chooses best.pt, or a validation loss such as val_loss; none: the task's main one.",
    )
    early_stop: Positive | None = Field(
        default=None, description="End the run after so many evaluations without a better `best_metric`."
    )
    checkpoint_every: Positive | None = Field(
        default=None, description="Iterations between checkpoints; there is always one before an evaluation."
    )
    keep_checkpoints: Positive = Field(
        default=2,
        description="Checkpoints to keep: last.pt and the ones before it, last-1.pt, ..., if last.pt is damaged.",
    )
    log_every: Positive = Field(default=20, description="Iterations between lines of the log.")
    log_with: str | Sequence[str] = Field(
        default=(),
        description="Trackers of Accelerate that also get the log: tensorboard, wandb, mlflow, trackio, ...",
    )
    seed: Natural = Field(default=0, description="Seed of initial weights, data order, augmentation and sampling.")
    init_from: str | None = Field(
        default=None, description="Checkpoint, run or detector of another library whose weights the run starts from."
    )
    published: dict[str, Any] | None = Field(
        default=None, description="What others report for such a config: box_ap, mask_ap, source. For information only."
    )
    work_dir: str | None = Field(default=None, exclude=True, description="Folder of the run; none: runs/<config>-<n>.")
    overwrite: bool = Field(default=False, exclude=True, description="Replace the run in `work_dir`.")
    resume: bool = Field(
        default=False, exclude=True, description="Continue the run in `work_dir`, or the newest of its name."
    )
    auto_resume: bool = Field(
        default=False, exclude=True, description="As `resume` if that run has a checkpoint, else start a run."
    )
    eval_only: bool = Field(default=False, exclude=True, description="Evaluate `checkpoint` instead of training.")
    checkpoint: str | None = Field(
        default=None,
        exclude=True,
        description="Checkpoint, folder of a run, or detector of another library that `eval_only` evaluates.",
    )


def find_config(name: str) -> Path:
    """Return a config file by path, or by name among the configs of the package."""
    path = Path(name)
    packaged = CONFIG_DIR / f"{path.name.removesuffix('.py')}.py"
    if path.is_file():
        return path
    if packaged.is_file() and path.parent in (Path(), Path("configs")):
        return packaged
    raise InputError(
        f"config {name} does not exist; {did_you_mean(path.stem, [p.stem for p in CONFIG_DIR.glob('[!_]*.py')])}"
    )


def load_config(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a config, merge overrides into it and check it.

    Args:
        source: name or path of a config file, or the values themselves.
        overrides: dotted key or alias -> value, e.g. `{"backbone": "resnet101", "schedule.cosine": True}`.

    Returns:
        The config class of the task, with everything resolved that was left to a default.

    Raises:
        InputError: A file that cannot be read; an unknown or missing key; a value that does not fit.
    """
    values = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else _read_file(find_config(str(source)))
    overrides = {ALIASES.get(key, key): value for key, value in (overrides or {}).items()}
    chosen = {"task": "detection", "imports": ()} | values | overrides
    check_value("imports", chosen["imports"], str | Sequence[str])
    import_modules(chosen["imports"])
    task: Any = lookup(TASKS, str(chosen["task"]))
    config = validate(task.config_class, _merge(values, overrides, task))
    _check_optimizer(config.optimizer)
    if config.eval_only and not config.checkpoint:
        raise InputError("eval_only=true needs checkpoint=FILE")
    if config.resume and config.overwrite:
        raise InputError("resume=true and overwrite=true contradict each other")
    if config.auto_resume and config.overwrite:
        raise InputError("auto_resume=true and overwrite=true contradict each other")
    return task.resolve_config(config)


def save_config(config: TrainConfig, path: Path) -> None:
    """Write a config file that `load_config` reads, without the keys that hold for one invocation only."""
    Config(config.model_dump()).dump(path)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every entry that is not a dict with entries of its own."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return Config.fromfile(path, lazy_import=False).to_dict()
    except Exception as error:  # a config is a program: anything can go wrong in it
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"config {path} cannot be read: {reason}") from None


def _merge(values: dict[str, Any], overrides: Mapping[str, Any], task: "type[Task]") -> dict[str, Any]:
    """Merge the overrides into the expanded values, so that a part that no file mentions can get arguments."""
    values = task.expand_config(values, overrides)
    for key in overrides:
        _check_override(values, key, task.config_class)
    merged = Config(values)
    try:
        merged.merge_from_dict(dict(overrides))
    except TypeError as error:  # a dict in place of a value
        raise InputError(f"overrides cannot be merged: {error}") from None
    return task.expand_config(merged.to_dict(), {})


def _check_override(values: Mapping[str, Any], key: str, config_class: type[TrainConfig]) -> None:
    """Raise InputError unless a dotted key leads through dicts, because mmengine would silently make new ones."""
    first, *others = key.split(".")
    check_known("config key", [*config_class.model_fields, *ALIASES], first)
    node: Mapping[str, Any] = {first: values.get(first, {})}
    for name in [first, *others][:-1]:
        if not isinstance(node.get(name), Mapping):
            raise InputError(f"unknown config key {key!r}; {did_you_mean(name, node)}")
        node = node[name]


def _check_optimizer(settings: Mapping[str, Any]) -> None:
    name = str(settings.get("type"))
    check_known("optimizer.type", OPTIMIZERS, name)
    if settings.get("lr") is None:
        raise InputError("config key optimizer.lr is missing")
    check_part(OPTIMIZERS[name], settings, "optimizer")
    arguments = {key: value for key, value in settings.items() if key != "type"}
    try:
        OPTIMIZERS[name]([torch.zeros(1, requires_grad=True)], **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"config key optimizer cannot be used: {name}: {error}") from None
