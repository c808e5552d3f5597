"""Read from tensors which member of the ResNet family a state dict with torchvision's keys is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError

DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {  # (Bottleneck, blocks per stage) -> depth
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


@dataclass(frozen=True)
class Architecture:
    """Structure of a residual network, as far as its tensors tell.

    Attributes:
        layers: number of blocks per stage that is present.
        bottleneck: the blocks are Bottlenecks and not BasicBlocks.
        groups, width_per_group: cardinality and base width of ResNeXt and Wide ResNet.
        stem: "conv7", "deep" or "cifar".
        avg_down: shortcuts average-pool before their convolution.
        in_channels: number of image channels.
        num_classes: of the classifier, or None.
        extra: a part that the ResNets of this package do not have, such as "squeeze-and-excitation".
    """

    layers: tuple[int, ...]
    bottleneck: bool
    groups: int = 1
    width_per_group: int = 64
    stem: str = "conv7"
    avg_down: bool = False
    in_channels: int = 3
    num_classes: int | None = None
    extra: str = ""

    @property
    def family(self) -> str:
        """The kind of network in words that users know: "ResNet-101", "ResNeXt-101 32x8d", "Wide ResNet-50-2"."""
        if self.stem == "cifar":
            return f"CIFAR ResNet-{2 * sum(self.layers) + 2}"
        depth = DEPTHS.get((self.bottleneck, self.layers))
        number = "" if depth is None else f"-{depth}"
        if depth is None:
            number = f" with {', '.join(map(str, self.layers))} blocks per stage"
        variant = "-D" if self.stem == "deep" and self.avg_down else ""
        if self.groups > 1:
            return f"ResNeXt{number}{variant} {self.groups}x{self.width_per_group}d"
        if self.width_per_group != 64:
            return f"Wide ResNet{number}{variant}-{self.width_per_group / 64:g}"
        return f"ResNet{number}{variant}"

    @property
    def name(self) -> str:
        """Name of the backbone in this package, or "" if it does not have one."""
        if self.extra:
            return ""
        if self.stem == "cifar":
            blocks = set(self.layers)
            return f"resnet{2 * sum(self.layers) + 2}_cifar" if len(self.layers) == 3 and len(blocks) == 1 else ""
        depth = DEPTHS.get((self.bottleneck, self.layers))
        if depth is None or (self.stem == "deep") != self.avg_down:
            return ""
        suffix = "d" if self.stem == "deep" else ""
        if self.groups > 1:
            return "" if suffix else f"resnext{depth}_{self.groups}x{self.width_per_group}d"
        if self.width_per_group != 64:
            return f"wide_resnet{depth}_2" if self.width_per_group == 128 and not suffix else ""
        return f"resnet{depth}{suffix}"


def read_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """Return the structure of the network with this state dict, which has torchvision's keys without a prefix."""
    blocks: dict[int, set[int]] = {}
    for key in state:
        match = re.match(r"layer(\d)\.(\d+)\.", key)
        if match:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    first = min(blocks, default=1)
    prefix = f"layer{first}.0."
    bottleneck = f"{prefix}conv3.weight" in state
    groups, width_per_group = _cardinality(state, prefix) if bottleneck else (1, 64)
    stem_key = next((key for key in ("conv1.0.weight", "conv1.weight") if key in state), None)
    stem, in_channels = "conv7", 3
    if stem_key:
        weight = state[stem_key]
        in_channels = weight.shape[1]
        stem = "deep" if stem_key == "conv1.0.weight" else "cifar" if weight.shape[-1] == 3 else "conv7"
    classifier = state.get("fc.weight")
    return Architecture(
        layers=tuple(len(blocks[stage]) for stage in sorted(blocks)),
        bottleneck=bottleneck,
        groups=groups,
        width_per_group=width_per_group,
        stem=stem,
        avg_down=any(re.fullmatch(r"layer\d\.0\.downsample\.1\.weight", k) and v.dim() == 4 for k, v in state.items()),
        in_channels=in_channels,
        num_classes=None if classifier is None else len(classifier),
        extra=_extra_part(state),
    )


def check_architecture(theirs: Architecture, ours: Architecture, source: str) -> None:
    """Check that weights are those of this member of the family; stages that only one of them has do not count.

    Raises:
        InputError: they are those of another one; the message names both.
    """
    num_stages = min(len(theirs.layers), len(ours.layers))
    traits = ("bottleneck", "groups", "width_per_group", "stem", "avg_down", "extra")
    same_traits = all(getattr(theirs, name) == getattr(ours, name) for name in traits)
    if not num_stages or (same_traits and theirs.layers[:num_stages] == ours.layers[:num_stages]):
        return
    advice = f"; build {theirs.name}" if theirs.name else ""
    extra = f" with {theirs.extra}" if theirs.extra else ""
    raise InputError(
        f"weights {source} do not fit: they are those of a {theirs.family}{extra}, the backbone is a "
        f"{ours.family}{advice}"
    )


def _cardinality(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int]:
    """Return groups and width per group of a Bottleneck network from its first block."""
    weight = state.get(f"{prefix}conv2.weight")
    if weight is None:
        return 1, 64
    width, channels_per_group = weight.shape[:2]
    planes = state[f"{prefix}conv3.weight"].shape[0] // 4
    groups = width // channels_per_group
    return groups, round(channels_per_group * 64 / planes)


def _extra_part(state: Mapping[str, Tensor]) -> str:
    parts = {".se.": "squeeze-and-excitation", ".conv2.conv1.": "split attention", ".conv2.0.": "anti-aliasing"}
    first, last = state.get("conv1.0.weight"), state.get("conv1.6.weight")
    if first is not None and last is not None and 2 * len(first) != len(last):
        return "other widths in the stem"
    return next((what for part, what in parts.items() if any(part in key for key in state)), "")
