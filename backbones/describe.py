"""Describe a backbone level by level: strides, channels, operations and what is frozen, as data and as a table."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from ..layers.norm import BATCH_NORMS
from ..registry import build_backbone, check_overrides
from .base import Backbone
from .resnet import ResNet


@dataclass(frozen=True)
class LevelDescription:
    """One level. A value is None if the network does not tell (parts not known, a stem without a feature).

    Attributes:
        name: "c1" (the stem) to "c5".
        returned: `forward` returns it.
        channels, stride, dilation: as in FeatureSpec.
        receptive_field: input pixels per side that one cell depends on, in an unbounded image.
        parameters: number of parameters, affine values of norms included.
        gflops: 1e9 operations for the given input; a multiply-add counts as two.
        weights, statistics, affine: "fixed", "trains" ("live" for statistics), "none", or "part" if modules differ.
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
        parameters, gflops: of the whole backbone.
        input_size: height and width that `gflops` is for, with batch size 1.
        inexact_reasons: why dilated features differ from undilated ones; empty if they are equal.
        weights: what is known of the pretrained weights, see `WeightCard.summary`; "" without weights.
    """

    name: str
    levels: tuple[LevelDescription, ...]
    parameters: int
    gflops: float
    input_size: tuple[int, int]
    size_divisor: int
    inexact_reasons: tuple[str, ...]
    weights: str = ""

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.input_size
        lines = [
            f"{self.name}: {self.parameters / 1e6:.3f} M parameters, {self.gflops:.2f} GFLOP at {height} x {width} "
            "(a multiply-add counts as two)",
            _table_text(self.levels),
            f"sides that are multiples of {self.size_divisor} give exactly these strides; "
            f"a-trous identity: {self._identity()}",
        ]
        if self.weights:
            lines.append(f"weights {self.weights}")
        if not all(level.returned for level in self.levels):
            lines.insert(2, "* built, not returned")
        return "\n".join(lines)

    def _identity(self) -> str:
        """Say whether the a-trous identity holds."""
        if self.inexact_reasons:
            text = f"does not hold because of {', '.join(self.inexact_reasons)}"
        elif all(level.dilation in (1, None) for level in self.levels):
            return "no stage is dilated"
        else:
            text = "holds"
        if any(level.statistics == "live" for level in self.levels):
            text += " (with live batch statistics only in evaluation mode)"
        return text


def _table_text(levels: Sequence[LevelDescription]) -> str:
    names = ("level", "channels", "stride", "dilation", "field px", "params M", "GFLOP")
    columns = [Column(name, justify="right") for name in (*names, "weights", "statistics", "affine")]
    table = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for level in levels:
        cells = (
            level.name + ("" if level.returned else "*"),
            level.channels,
            level.stride,
            level.dilation,
            level.receptive_field,
            None if level.parameters is None else f"{level.parameters / 1e6:.3f}",
            None if level.gflops is None else f"{level.gflops:.2f}",
            level.weights,
            level.statistics,
            level.affine,
        )
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in cells))  # names may look like markup
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def describe(
    backbone: str | Mapping | Backbone, input_size: tuple[int, int] = (800, 1344), **overrides: Any
) -> Description:
    """Describe a backbone.

    Args:
        backbone: a built backbone, or a name or config; then nothing is allocated and no weights are read.
        input_size: height and width for the operation counts.
        overrides: arguments of a backbone that is not built yet.

    Raises:
        InputError: as `build_backbone`, or a computed feature map disagrees with its FeatureSpec.
    """
    if isinstance(backbone, nn.Module):
        check_overrides(backbone, overrides)
        name = type(backbone).__name__
        model = copy.deepcopy(backbone).to("meta")
    else:
        cfg = ({"type": backbone} if isinstance(backbone, str) else dict(backbone)) | overrides
        name = cfg.get("model", cfg["type"])
        with torch.device("meta"):
            model = build_backbone(cfg, load_weights=False)
    level_gflops, gflops = count_operations(model, input_size)
    fields = receptive_fields(model) if isinstance(model, ResNet) else {}
    specs = {spec.name: spec for spec in model.stage_specs}
    returned = {spec.name for spec in model.feature_specs}
    parts = model.stage_modules or {name: () for name in specs}
    model.train()
    levels = []
    for level, modules in parts.items():
        spec, part = specs.get(level), nn.ModuleList(modules)
        levels.append(
            LevelDescription(
                name=level,
                returned=level in returned,
                channels=spec.channels if spec else None,
                stride=spec.stride if spec else None,
                dilation=spec.dilation if spec else None,
                receptive_field=fields.get(level),
                parameters=sum(parameter.numel() for parameter in part.parameters()) if modules else None,
                gflops=level_gflops.get(level),
                **_training_state(part),
            )
        )
    return Description(
        name=name,
        levels=tuple(levels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        gflops=gflops,
        input_size=(input_size[0], input_size[1]),
        size_divisor=model.size_divisor,
        inexact_reasons=model.inexact_reasons,
        weights=model.weight_card.summary() if model.weight_card else "",
    )


@torch.no_grad()
def count_operations(model: Backbone, input_size: tuple[int, int]) -> tuple[dict[str, float], float]:
    """Return 1e9 operations per level whose output module is known, and in total, of a copy on the meta device.

    Raises:
        InputError: a map is missing, or its channels or stride are not those of its FeatureSpec.
    """

    def deform_conv_flops(_: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * weight[1] * weight[2] * weight[3] * torch.Size(out_shape).numel()

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: deform_conv_flops})
    totals: dict[str, int] = {}  # operations from the input up to each level
    for name, module in model.stage_outputs.items():
        module.register_forward_hook(lambda *_, name=name: totals.update({name: counter.get_total_flops()}))
    with counter:
        images = torch.zeros(1, model.preprocess.channels, *input_size, device="meta")
        features = model.eval().forward_features(images)
    for spec in model.feature_specs:
        shape = tuple(features[spec.name].shape) if spec.name in features else None
        # a network without padding has fewer cells; a wrong stride is off by a factor of two
        if shape is None or shape[1] != spec.channels or round(log2(input_size[0] / shape[2])) != log2(spec.stride):
            maps = ", ".join(f"{name} {tuple(feature.shape)}" for name, feature in features.items())
            raise InputError(f"{spec} is declared, but forward_features returns {maps} for images of {input_size}")
    per_level = {name: (total - before) / 1e9 for (name, total), before in zip(totals.items(), [0, *totals.values()])}
    return per_level, counter.get_total_flops() / 1e9


def receptive_fields(model: ResNet) -> dict[str, int | None]:
    """Return the receptive field of each level, its side in input pixels; None from the first deformable stage on.

    Along the longest path, a k x k convolution or pool with dilation d adds (k - 1) * d * (stride of its input).
    """
    field: int | None = 1
    pixels_per_cell = 1
    fields: dict[str, int | None] = {}
    for level, modules in model.stage_modules.items():
        layers = [(name, layer) for module in modules for name, layer in module.named_modules()]
        for name, layer in layers:
            if "conv_offset" in name:
                field = None  # offsets reach anywhere
            if field is None or "downsample" in name or not isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                continue
            kernel_size, stride, dilation = (
                value[0] if isinstance(value, tuple) else value
                for value in (layer.kernel_size, layer.stride, layer.dilation)
            )
            field += (kernel_size - 1) * dilation * pixels_per_cell
            pixels_per_cell *= stride
        fields[level] = field
    return fields


def _training_state(part: nn.Module) -> dict[str, str]:
    """Return `weights`, `statistics` and `affine` of LevelDescription for a part in training mode."""
    norms = [m for m in part.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm)) or hasattr(m, "running_mean")]
    weights = [p.requires_grad for m in part.modules() if m not in norms for p in m.parameters(recurse=False)]
    affine = [p.requires_grad for norm in norms for p in norm.parameters(recurse=False)]
    statistics = [isinstance(norm, BATCH_NORMS) and norm.training for norm in norms if hasattr(norm, "running_mean")]
    return {
        "weights": _summarise(weights, true="trains", empty="none"),
        "statistics": _summarise(statistics, true="live", empty="none"),
        "affine": _summarise(affine, true="trains", empty="fixed" if norms else "none"),
    }


def _summarise(flags: list[bool], true: str, empty: str) -> str:
    if not flags:
        return empty
    if all(flags):
        return true
    return "part" if any(flags) else "fixed"
