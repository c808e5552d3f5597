"""Rename and reorder a detector's tensors between another library and this package, in both directions.

What differs between libraries is names and order: detectron2 and mmdetection have the background as the last class, no
box deltas and no mask for it; detectron2 lists the anchors of a cell by size, then ratio. Here, as in torchvision, the
background is the first class and ratios come before sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .key_maps import KeyMap

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reordering:
    """A change of a tensor's values and its inverse."""

    to_ours: Change
    to_theirs: Change


STEM_WEIGHTS = ("backbone.conv1.weight", "backbone.conv1.0.weight")  # the second of a deep stem
REVERSED_CHANNELS = Reordering(lambda value: value.flip(1), lambda value: value.flip(1))  # BGR and RGB
BACKGROUND_FIRST = Reordering(
    lambda value: torch.cat([value[-1:], value[:-1]]), lambda value: torch.cat([value[1:], value[:1]])
)


def rows_without_background(rows: int) -> Reordering:
    """Return the reordering for a layer that has `rows` rows per class, in the other library none for the background.

    The new rows are zero and have no influence on detections.
    """
    return Reordering(
        lambda value: torch.cat([torch.zeros_like(value[:rows]), value]), lambda value: value[rows:].clone()
    )


def swapped_anchors(sizes: int, ratios: int) -> Reordering:
    """Return the reordering from anchors by size, then ratio, to anchors by ratio, then size, along axis 0."""

    def swap(value: Tensor, outer: int, inner: int) -> Tensor:
        return value.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)

    return Reordering(lambda value: swap(value, sizes, ratios), lambda value: swap(value, ratios, sizes))


@dataclass(frozen=True)
class DetectorKeys:
    """The names and the order of a detector's tensors in another library.

    Attributes:
        backbone_map: names inside the backbone.
        backbones: their prefix -> (our prefix, what their keys start with after it, such as "res5." for a stage in RoI
            heads).
        modules: (their prefix, our prefix) of every other module.
        reorderings: our prefix -> change of the values.
        dropped: prefixes of their keys that are constants, such as anchors.
    """

    backbone_map: KeyMap
    backbones: Mapping[str, tuple[str, str, str]]
    modules: Sequence[tuple[str, str]]
    reorderings: Mapping[str, Reordering]
    dropped: tuple[str, ...] = ()

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their state dict under our keys and in our order. Keys that are not known keep their name."""
        converted = {}
        for key, value in state.items():
            if not key.startswith(self.dropped):
                ours = self._our_key(key)
                change = self._reordering(ours)
                converted[ours] = change.to_ours(value) if change else value
        return converted

    def export(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our state dict under their keys and in their order; the inverse of `convert`."""
        exported = {}
        for key, value in state.items():
            change = self._reordering(key)
            exported[self._their_key(key)] = change.to_theirs(value) if change else value
        return exported

    def _our_key(self, key: str) -> str:
        for theirs, ours in self.modules:
            if key.startswith(theirs):
                return ours + key.removeprefix(theirs)
        for theirs, (ours, their_stage, our_stage) in self.backbones.items():
            if key.startswith(theirs):
                (name,) = self.backbone_map.convert({their_stage + key.removeprefix(theirs): None})
                return ours + name.removeprefix(our_stage)
        return key

    def _their_key(self, key: str) -> str:
        for theirs, ours in self.modules:
            if key.startswith(ours):
                return theirs + key.removeprefix(ours)
        for theirs, (ours, their_stage, our_stage) in self.backbones.items():
            if key.startswith(ours):
                (name,) = self.backbone_map.export({our_stage + key.removeprefix(ours): None})
                return theirs + name.removeprefix(their_stage)
        return key

    def _reordering(self, key: str) -> Reordering | None:
        return next((change for prefix, change in self.reorderings.items() if key.startswith(prefix)), None)
