"""What a backbone is, as data and as a table: geometry, cost and what is fixed, level by level."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..registry import build_backbone
from ..layers.norm import LIVE
from .resnet import ResNet


@dataclass(frozen=True)
class LevelDescription:
    """One level. None where a network does not tell (a timm network that runs as a whole, a stem without a feature).

    Attributes:
        name: "c1" (the stem) to "c5".
        returned: whether `forward` returns it.
        channels, stride, dilation: as in FeatureSpec.
        receptive_field: input pixels a side that one cell depends on, of an unbounded image.
        parameters: number of weights of this level, norm affine included.
        gflops: 1e9 operations for the given input; a multiply-add counts as two.
        weights, statistics, affine: "fixed", "trains" (statistics: "live") or "none"; "part" where modules differ.
    """

    name: str
    returned: bool
    channels: int | None
    stride: int | None
    dilation: int | None
    receptive_field: int | None
    parameters: int | None
    gflops: float | None
    weights: str
    statistics: str
    affine: str


@dataclass(frozen=True)
class Description:
    """A backbone and its levels. `str()` gives a table, `to_dict()` plain data.

    Attributes:
        input_size: height and width that `gflops` is for, batch 1.
        identity_left: what takes the features out of the a-trous identity by nature; empty where it holds.
    """

    name: str
    levels: tuple[LevelDescription, ...]
    parameters: int
    gflops: float
    input_size: tuple[int, int]
    size_divisor: int
    identity_left: tuple[str, ...]

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        head = ("level", "channels", "stride", "dilation", "field px", "params M", "GFLOP", "weights", "statistics", "affine")
        rows = [(level.name + ("" if level.returned else "*"), level.channels, level.stride, level.dilation, level.receptive_field,
                 None if level.parameters is None else f"{level.parameters / 1e6:.3f}",
                 None if level.gflops is None else f"{level.gflops:.2f}", level.weights, level.statistics, level.affine)
                for level in self.levels]  # fmt: skip
        cells = [head, *[tuple("-" if cell is None else str(cell) for cell in row) for row in rows]]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in cells]
        height, width = self.input_size
        identity = f"left by {', '.join(self.identity_left)}" if self.identity_left else "holds"
        if any(level.statistics == "live" for level in self.levels):
            identity += " (with live batch statistics only in evaluation mode)"
        if not self.identity_left and all(level.dilation in (1, None) for level in self.levels):
            identity = "no stage is dilated"
        return "\n".join([
            f"{self.name}: {self.parameters / 1e6:.3f} M parameters, {self.gflops:.2f} GFLOP at {height} x {width} "
            "(a multiply-add is two)",
            *lines,
            *(["* built, not returned"] if not all(level.returned for level in self.levels) else []),
            f"sides that are multiples of {self.size_divisor} give exactly these strides; a-trous identity: {identity}",
        ])  # fmt: skip


def describe(backbone: str | Mapping | nn.Module, input_size: tuple[int, int] = (800, 1344), **overrides) -> Description:
    """Describe a built backbone, or one by name or config (then nothing is allocated and no weights are read).

    Args:
        input_size: height and width for the operation counts.
        overrides: arguments of the backbone, where it is not built yet.

    Raises InputError as build_backbone.
    """
    if isinstance(backbone, nn.Module):
        name = type(backbone).__name__
        model = copy.deepcopy(backbone).to("meta")
    else:
        cfg = ({"type": backbone} if isinstance(backbone, str) else dict(backbone)) | overrides
        name = cfg.get("model", cfg["type"])
        with torch.device("meta"):
            model = build_backbone(cfg, **({"load_weights": False} if cfg.get("weights") else {}))
    specs = {spec.name: spec for spec in model.built_specs}
    fields = receptive_fields(model) if isinstance(model, ResNet) else {}
    gflops, total = operations(model, input_size)
    returned = {spec.name for spec in model.feature_specs}
    parts = model.parts or {name: () for name in specs}
    model.train()
    levels = []
    for level, modules in parts.items():
        spec = specs.get(level)
        inside = {id(p): p for module in modules for p in module.parameters()}
        levels.append(LevelDescription(
            level, level in returned, spec and spec.channels, spec and spec.stride, spec and spec.dilation, fields.get(level),
            sum(p.numel() for p in inside.values()) if modules else None, gflops.get(level), *what_is_fixed(modules)))  # fmt: skip
    parameters = sum(p.numel() for p in model.parameters())
    return Description(name, tuple(levels), parameters, total, tuple(input_size), model.size_divisor, model.identity_left)


def operations(model: nn.Module, input_size: tuple[int, int]) -> tuple[dict[str, float], float]:
    """1e9 operations of each level that has an end of its own, and of all: torch's counter on the meta device."""

    def deform(_, weight, *rest, out_shape=None, **__) -> int:
        return 2 * weight[1] * weight[2] * weight[3] * torch.Size(out_shape).numel()

    passed: dict[str, int] = {}
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: deform})
    hooks = [module.register_forward_hook(lambda *_, name=name: passed.update({name: counter.get_total_flops()}))
             for name, module in model.ends.items()]  # fmt: skip
    model.eval()
    with counter, torch.no_grad():
        model(torch.zeros(1, model.preprocess.channels, *input_size, device="meta"))
    for hook in hooks:
        hook.remove()
    counts, before = {}, 0
    for name, count in passed.items():
        counts[name], before = (count - before) / 1e9, count
    return counts, counter.get_total_flops() / 1e9


def receptive_fields(model: ResNet) -> dict[str, int | None]:
    """Side in input pixels of what one cell of each level depends on; None from the first deformable stage on.

    Along the longest path a window of k cells, `dilation` apart, adds (k - 1) * dilation * (input pixels a cell).
    """
    field, step, fields = 1, 1, {}
    for level, modules in model.parts.items():
        for module in modules:
            for name, layer in module.named_modules():
                if "conv_offset" in name or field is None:
                    field = None  # offsets reach anywhere
                elif isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) and "downsample" not in name:
                    kernel, stride, dilation = (v[0] if isinstance(v, tuple) else v
                                                for v in (layer.kernel_size, layer.stride, layer.dilation))  # fmt: skip
                    field += (kernel - 1) * dilation * step
                    step *= stride
        fields[level] = field
    return fields


def what_is_fixed(modules) -> tuple[str, str, str]:
    """(weights, statistics, affine) of a part in training mode."""
    inside = list({id(m): m for module in modules for m in module.modules()}.values())
    norms = [m for m in inside if isinstance(m, (nn.GroupNorm, nn.LayerNorm)) or hasattr(m, "running_mean")]
    ids = {id(norm) for norm in norms}
    own = [p.requires_grad for m in inside if id(m) not in ids for p in m.parameters(recurse=False)]
    affine = [p.requires_grad for norm in norms for p in norm.parameters(recurse=False)]
    live = [isinstance(norm, LIVE) and norm.training for norm in norms if hasattr(norm, "running_mean")]
    return _word(own, "trains", "none"), _word(live, "live", "none"), _word(affine, "trains", "fixed" if norms else "none")


def _word(flags: list[bool], yes: str, empty: str) -> str:
    if not flags:
        return empty
    return yes if all(flags) else "part" if any(flags) else "fixed"
