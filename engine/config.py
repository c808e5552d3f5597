"""What a run is asked to do: a config file, overrides `key=value`, and a check that every key means something."""

import ast
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import torch
from mmengine.config import Config

from ..detectors.base import resolve_backbone
from ..errors import InputError, did_you_mean
from ..registry import BACKBONES, DETECTORS, NECKS, check_arguments, lookup

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_CONFIG = "mask_rcnn_resnet18_fpn_short_shapes"
SHORT_KEYS = {"backbone": "model.backbone.type", "neck": "model.neck.type", "weights": "model.backbone.weights"}
WORDS = {"none": None, "true": True, "false": False}
OPTIMIZERS = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}


@dataclass
class Split:
    """Where one half of the data lies: paths below `data_root`, or any paths where that holds no such file."""

    ann_file: str
    image_dir: str


@dataclass
class Schedule:
    """Learning-rate factor by iteration: linear warm-up, then steps or half a cosine."""

    warmup_iters: int = 0
    warmup_factor: float = 0.001
    steps: Sequence[int] = ()
    gamma: float = 0.1
    cosine: bool = False


@dataclass
class Run:
    """Every top-level key of a config.

    `optimizer` holds the arguments of a torch optimizer and its `type`; its `lr` is for `reference_batch_size` images a
    step and follows the real number linearly. `workers` are loading processes, None leaves their number to the machine.
    `precision` is Accelerate's word. `compile` runs backbone and neck through torch.compile. `eval_every` and `checkpoint_every`
    count iterations (optimizer steps); None means once, at the end. `val_loss` logs the losses of the validation images
    at every evaluation. `published` is what the field reports for such a config: box_ap, mask_ap (None where there is no
    number) and source; it changes nothing in a run.
    """

    model: dict
    train: Split
    val: Split
    optimizer: dict
    max_iters: int
    data_root: str | None = None
    short_side: int | Sequence[int] | None = 800
    long_side: int | None = 1333
    flip: float = 0.5
    batch_size: int = 16
    accumulate: int = 1
    reference_batch_size: int = 16
    workers: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    clip_grad_norm: float | None = None
    precision: str = "no"
    compile: bool = False
    eval_every: int | None = None
    val_loss: bool = False
    checkpoint_every: int | None = None
    log_every: int = 20
    seed: int = 0
    drop_bad_objects: bool = False
    skip_unreadable: bool = False
    eval_backend: str = "faster_coco_eval"
    work_dir: str | None = None
    overwrite: bool = False
    resume: bool = False
    init_from: str | None = None
    eval_only: bool = False
    checkpoint: str | None = None
    published: dict | None = None


CHOICES = {"precision": ("no", "bf16", "fp16"), "eval_backend": ("faster_coco_eval", "pycocotools")}
LEAST = {"max_iters": 1, "batch_size": 1, "accumulate": 1, "reference_batch_size": 1, "log_every": 1, "eval_every": 1,
         "checkpoint_every": 1, "short_side": 1, "long_side": 1, "workers": 0, "seed": 0, "flip": 0,
         "clip_grad_norm": 0}  # fmt: skip
MOST = {"flip": 1}
ERRAND = ("work_dir", "overwrite", "resume", "eval_only", "checkpoint")  # of one call; a saved config leaves them out


def find_config(name: str) -> Path:
    """A config file by path, or by bare name among the configs that come with the package."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = CONFIG_DIR / f"{path.name.removesuffix('.py')}.py"
    if packaged.is_file() and path.parent in (Path(), Path("configs")):
        return packaged
    known = [p.stem for p in CONFIG_DIR.glob("[!_]*.py")]
    raise InputError(f"config {name} does not exist; {did_you_mean(path.stem, known)}")


def parse_words(arguments: Sequence[str]) -> dict:
    """`key=value` words to a dict; values are Python literals, none, true, false, or else text."""
    values = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise InputError(f"expected key=value, not {argument!r}")
        if text.lower() in WORDS:
            values[key] = WORDS[text.lower()]
            continue
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return values


def parse_overrides(arguments: Sequence[str]) -> dict:
    """`key=value` words to a dict; short keys become the dotted keys they stand for."""
    overrides = {SHORT_KEYS.get(key, key): value for key, value in parse_words(arguments).items()}
    if overrides.get("model.neck.type", "") is None:  # a neck has that name
        overrides["model.neck.type"] = "none"
    return overrides


def load_config(source: str | Path | Mapping, overrides: Mapping) -> Config:
    """The merged and checked config. `model.backbone` says `norm` and `freeze` outright, as they will be."""
    try:
        cfg = Config(dict(source)) if isinstance(source, Mapping) else Config.fromfile(source, lazy_import=False)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise InputError(f"config {source} cannot be read: {type(error).__name__}: {error}".replace("\n", " ")) from None
    _names_to_dicts(cfg)
    for key in overrides:
        _check_key(cfg, key)
    changed = {key.split(".")[0] for key in overrides}
    cfg.merge_from_dict(dict(overrides))
    _names_to_dicts(cfg)
    if "model" in changed and overrides.get("model.backbone.weights", "") is None:
        for key in ("norm", "freeze"):  # said by the file for the weights that are now gone
            if f"model.backbone.{key}" not in overrides:
                cfg.model.backbone.pop(key, None)
    check_config(cfg)
    cfg.model.backbone = resolve_backbone(cfg.model.backbone)
    return cfg


def _names_to_dicts(cfg: Config) -> None:
    for part in ("backbone", "neck"):
        if isinstance(cfg.get("model"), Mapping) and isinstance(cfg.model.get(part), str):
            cfg.model[part] = {"type": cfg.model[part]}


def _check_key(cfg: Config, key: str) -> None:
    """A dotted override must pass through dicts: mmengine would silently make new ones."""
    known = {f.name for f in fields(Run)}
    head, *rest = key.split(".")
    if head not in known:
        raise InputError(f"unknown config key {key!r}; {did_you_mean(key, known | set(SHORT_KEYS))}")
    node = cfg.get(head, {})
    for part in rest[:-1]:
        if not isinstance(node, Mapping) or part not in node:
            raise InputError(f"unknown config key {key!r}; {did_you_mean(part, node if isinstance(node, Mapping) else [])}")
        node = node[part]


def check_config(cfg: Config) -> None:
    """InputError for a key that no part takes, a missing one, an unknown part, or a value of the wrong kind."""
    _check_dataclass(Run, cfg, "")
    for key, cls in (("train", Split), ("val", Split), ("schedule", Schedule)):
        _check_dataclass(cls, cfg.get(key, {}), f"{key}.")
    model = cfg.model
    for registry, node, where in ((DETECTORS, model, "model"), (BACKBONES, model.get("backbone"), "model.backbone"),
                                  (NECKS, model.get("neck", {"type": "fpn"}), "model.neck")):  # fmt: skip
        if not isinstance(node, Mapping) or "type" not in node:
            raise InputError(f"config key {where} needs a 'type'; {did_you_mean('', registry.module_dict)}")
        part = lookup(registry, node["type"])
        check_arguments(part, [k for k in node if k != "type"], f"{where} ({node['type']})")
        kinds = _argument_kinds(part)
        for key, value in node.items():
            if key in ("num_classes", "load_weights"):
                raise InputError(f"config key {where}.{key} cannot be set: annotations and checkpoints decide it")
            if key in kinds and not _fits(value, kinds[key]):
                raise InputError(f"config key {where}.{key}={value!r} is no {_spell(kinds[key])}")
    kind = cfg.optimizer.get("type")
    if kind not in OPTIMIZERS:
        raise InputError(f"unknown optimizer.type {kind!r}; {did_you_mean(str(kind), OPTIMIZERS)}")
    check_arguments(OPTIMIZERS[kind], [k for k in cfg.optimizer if k != "type"], f"optimizer ({kind})")
    try:
        if cfg.optimizer.get("lr") is None:
            raise ValueError("lr is missing")
        OPTIMIZERS[kind]([torch.zeros(1, requires_grad=True)], **{k: v for k, v in cfg.optimizer.items() if k != "type"})
    except (TypeError, ValueError) as error:
        raise InputError(f"config key optimizer: {kind} says: {error}") from None
    for key, choices in CHOICES.items():
        if cfg.get(key, choices[0]) not in choices:
            raise InputError(f"{key}={cfg[key]!r}; {did_you_mean(str(cfg[key]), choices)}")
    for key, least in LEAST.items():
        values = cfg[key] if isinstance(cfg.get(key), (list, tuple)) else [cfg.get(key)]
        if not values or any(value is not None and value < least for value in values):
            raise InputError(f"{key}={cfg[key]!r} must be at least {least}")
    for key, most in MOST.items():
        if cfg.get(key, most) > most:
            raise InputError(f"{key}={cfg[key]!r} must be at most {most}")
    if cfg.get("schedule", {}).get("warmup_iters", 0) < 0:
        raise InputError(f"schedule.warmup_iters={cfg.schedule.warmup_iters} must be at least 0")
    if cfg.get("eval_only") and not cfg.get("checkpoint"):
        raise InputError("eval_only=true needs checkpoint=FILE")
    if cfg.get("resume") and cfg.get("overwrite"):
        raise InputError("resume=true and overwrite=true contradict each other")


def _check_dataclass(cls: type, node: Mapping, prefix: str) -> None:
    known = {f.name: f for f in fields(cls)}
    for key, value in node.items():
        if key not in known:
            raise InputError(f"unknown config key {prefix + key!r}; {did_you_mean(key, known)}")
        if not _fits(value, known[key].type):
            raise InputError(f"config key {prefix + key}={value!r} is no {_spell(known[key].type)}")
    for f in known.values():
        if f.default is MISSING and f.default_factory is MISSING and f.name not in node:
            raise InputError(f"config key {prefix + f.name!r} is missing")


def _argument_kinds(factory) -> dict[str, type]:
    """Constructor argument -> its annotation, those of parent classes included."""
    parents = reversed(factory.__mro__) if isinstance(factory, type) else ()
    constructors = [vars(c)["__init__"] for c in parents if "__init__" in vars(c)] or [factory]
    return {p.name: p.annotation for c in constructors for p in inspect.signature(c).parameters.values()}


def _spell(kind) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("collections.abc.", "")


def _fits(value, kind) -> bool:
    """Whether a value is of a kind; a kind that is none of the few below takes everything."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_fits(value, k) for k in typing.get_args(kind))
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if kind in (str, bool, type(None)):
        return isinstance(value, kind)
    if typing.get_origin(kind) is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(v, typing.get_args(kind)[0]) for v in value)
    if kind in (dict, Mapping, Split, Schedule):
        return isinstance(value, Mapping)
    return True


def lasting(cfg: Config) -> Config:
    """The config as a run saves it: what was asked of this one call is left out."""
    return Config({key: value for key, value in cfg.to_dict().items() if key not in ERRAND})


def as_run(cfg: Config) -> Run:
    """The checked config as typed values."""
    plain = cfg.to_dict()
    nested = {"train": Split, "val": Split, "schedule": Schedule}
    return Run(**{key: nested[key](**value) if key in nested else value for key, value in plain.items()})
