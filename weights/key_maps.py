"""Names of the ResNet family's tensors in other libraries, and in torchvision, whose keys this package has.

A `KeyMap` renames the keys of a backbone without the prefix that its place in a larger model adds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import InputError, shorten

Patterns = tuple[tuple[str, str], ...]  # regular expression for a whole key, its replacement
Value = TypeVar("Value")


@dataclass(frozen=True)
class KeyMap:
    """Renames keys by patterns; the first one that matches a whole key decides.

    Attributes:
        to_torchvision: patterns of the library's keys.
        from_torchvision: patterns of torchvision's keys, if weights can be written for the library.
    """

    to_torchvision: Patterns
    from_torchvision: Patterns = field(default=())

    def convert(self, state: Mapping[str, Value]) -> dict[str, Value]:
        """Return a state dict of the library under torchvision's keys; keys that no pattern matches stay.

        Raises:
            InputError: two keys become the same.
        """
        return _rename(state, self.to_torchvision)

    def export(self, state: Mapping[str, Value]) -> dict[str, Value]:
        """Return a state dict with torchvision's keys under those of the library; the inverse of `convert`."""
        return _rename(state, self.from_torchvision)


def _rename(state: Mapping[str, Value], patterns: Patterns) -> dict[str, Value]:
    renamed: dict[str, Value] = {}
    for key, value in state.items():
        new_key = rename_key(key, patterns)
        if new_key in renamed:
            raise InputError(f"two keys of the weights become {shorten(new_key)}, one is {shorten(key)}")
        renamed[new_key] = value
    return renamed


def rename_key(key: str, patterns: Patterns) -> str:
    """Return the key after the first pattern that matches all of it, or the key itself."""
    for pattern, replacement in patterns:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return key


def _levels(pattern: str, replacement: str, theirs: range, ours: range) -> Patterns:
    """Repeat a pattern for numbered stages; "{}" stands for the number of the stage."""
    return tuple((pattern.replace("{}", str(a)), replacement.replace("{}", str(b))) for a, b in zip(theirs, ours))


_OURS, _RES = range(1, 5), range(2, 6)  # layer1 to layer4; res2 to res5

DETECTRON2 = KeyMap(
    to_torchvision=(
        (r"stem\.conv1\.norm\.(.+)", r"bn1.\1"),
        (r"stem\.conv1\.weight", "conv1.weight"),
        (r"stem\.fc\.(.+)|linear\.(.+)", r"fc.\1\2"),
        *_levels(r"res{}\.(\d+)\.conv(\d)\.norm\.(.+)", r"layer{}.\1.bn\2.\3", _RES, _OURS),
        *_levels(r"res{}\.(\d+)\.shortcut\.norm\.(.+)", r"layer{}.\1.downsample.1.\2", _RES, _OURS),
        *_levels(r"res{}\.(\d+)\.shortcut\.(.+)", r"layer{}.\1.downsample.0.\2", _RES, _OURS),
        *_levels(r"res{}\.(.+)", r"layer{}.\1", _RES, _OURS),
    ),
    from_torchvision=(
        (r"bn1\.(.+)", r"stem.conv1.norm.\1"),
        (r"conv1\.weight", "stem.conv1.weight"),
        (r"fc\.(.+)", r"linear.\1"),
        *_levels(r"layer{}\.(\d+)\.bn(\d)\.(.+)", r"res{}.\1.conv\2.norm.\3", _OURS, _RES),
        *_levels(r"layer{}\.(\d+)\.downsample\.1\.(.+)", r"res{}.\1.shortcut.norm.\2", _OURS, _RES),
        *_levels(r"layer{}\.(\d+)\.downsample\.0\.(.+)", r"res{}.\1.shortcut.\2", _OURS, _RES),
        *_levels(r"layer{}\.(.+)", r"res{}.\1", _OURS, _RES),
    ),
)

TORCHVISION = KeyMap(to_torchvision=(), from_torchvision=())  # timm's too

# deep stem: mmdetection keeps its last norm inside
MMDET = KeyMap(
    to_torchvision=((r"stem\.7\.(.+)", r"bn1.\1"), (r"stem\.(.+)", r"conv1.\1")),
    from_torchvision=((r"conv1\.(\d\..+)", r"stem.\1"),),
)

HUGGINGFACE = KeyMap(
    to_torchvision=(
        (r"embedder\.embedder\.convolution\.(.+)", r"conv1.\1"),
        (r"embedder\.embedder\.normalization\.(.+)", r"bn1.\1"),
        (r"classifier\.1\.(.+)", r"fc.\1"),
        *(
            (
                rf"encoder\.stages\.{i}\.layers\.(\d+)\.shortcut\.{theirs}\.(.+)",
                rf"layer{i + 1}.\1.downsample.{ours}.\2",
            )
            for i in range(4)
            for theirs, ours in (("convolution", 0), ("normalization", 1))
        ),
        *(
            (
                rf"encoder\.stages\.{i}\.layers\.(\d+)\.layer\.{j}\.{theirs}\.(.+)",
                rf"layer{i + 1}.\1.{ours}{j + 1}.\2",
            )
            for i in range(4)
            for j in range(3)
            for theirs, ours in (("convolution", "conv"), ("normalization", "bn"))
        ),
    ),
)

CIFAR = KeyMap(to_torchvision=((r"linear\.(.+)", r"fc.\1"),), from_torchvision=((r"fc\.(.+)", r"linear.\1"),))

# Caffe2's blobs, as Detectron and the MSRA pickles name them; branch2a to branch2c are a block's convolutions
_BLOB_NORMS = {"bn_s": "weight", "bn_b": "bias", "bn_rm": "running_mean", "bn_riv": "running_var"}
_BLOB_NORMS |= {"gn_s": "weight", "gn_b": "bias"}
CAFFE2 = KeyMap(
    to_torchvision=(
        (r"conv1_w", "conv1.weight"),
        *((rf"res_conv1_{theirs}", f"bn1.{ours}") for theirs, ours in _BLOB_NORMS.items()),
        *((rf"(?:pred|fc1000)_{theirs}", f"fc.{ours}") for theirs, ours in (("w", "weight"), ("b", "bias"))),
        *_levels(r"res{}_(\d+)_branch1_w", r"layer{}.\1.downsample.0.weight", _RES, _OURS),
        *(
            pattern
            for theirs, ours in _BLOB_NORMS.items()
            for pattern in _levels(
                rf"res{{}}_(\d+)_branch1_{theirs}", rf"layer{{}}.\1.downsample.1.{ours}", _RES, _OURS
            )
        ),
        *(
            pattern
            for number, letter in enumerate("abc", start=1)
            for pattern in (
                *_levels(rf"res{{}}_(\d+)_branch2{letter}_w", rf"layer{{}}.\1.conv{number}.weight", _RES, _OURS),
                *(
                    norm
                    for theirs, ours in _BLOB_NORMS.items()
                    for norm in _levels(
                        rf"res{{}}_(\d+)_branch2{letter}_{theirs}", rf"layer{{}}.\1.bn{number}.{ours}", _RES, _OURS
                    )
                ),
            )
        ),
    ),
)

KEY_MAPS = {
    "torchvision": TORCHVISION,
    "timm": TORCHVISION,
    "detectron2": DETECTRON2,
    "caffe2": CAFFE2,
    "mmdet": MMDET,
    "huggingface": HUGGINGFACE,
    "cifar": CIFAR,
    "detbackbones": TORCHVISION,
}
