"""Feature Pyramid Network, Lin et al. 2017 (arXiv:1612.03144), on any set of backbone levels.

Lateral convolutions are 1x1 on the input levels; the top-down path sums them from the deepest to the finest level;
output convolutions are 3x3 on these sums. State-dict keys are torchvision's.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, check_known
from ..layers.conv_norm_act import conv_norm_act
from ..registry import NECKS
from ..specs import FeatureSpec
from .base import Neck
from .extra_levels import ExtraLevels

FUSE_SCALES = {"sum": 1.0, "avg": 0.5}


@NECKS.register_module(name="fpn")
class FPN(Neck):
    """Lateral 1x1 convolutions, nearest-neighbour top-down path, 3x3 output convolutions, then the extra levels.

    The top-down path resizes to the size of the finer map, so repeated strides (4, 8, 8, 8), skipped strides (4, 16,
    32) and image sides that are not multiples of the strides all work.

    Args:
        feature_specs: the backbone's, shallow to deep.
        out_channels: number of channels of every output level.
        extra_levels: "max_pool" (P6), "conv_on_input" or "conv_on_output" (P6 and P7), or "none"; see ExtraLevels.
        relu_before_extra_convs: see ExtraLevels.
        norm: norm after every lateral and output convolution; None for none (the paper).
        activation: activation after every lateral and output convolution; None for none (the paper).
        fuse_type: "sum", or "avg" for the mean of the two maps that meet in the top-down path.

    Raises:
        InputError: a name is unknown, or the levels do not strictly increase.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        out_channels: int = 256,
        extra_levels: str = "max_pool",
        relu_before_extra_convs: bool = True,
        norm: str | None = None,
        activation: str | None = None,
        fuse_type: str = "sum",
    ):
        super().__init__()
        levels = [spec.level for spec in feature_specs]
        if not levels or levels != sorted(set(levels)):
            raise InputError(f"a feature pyramid needs strictly increasing levels, got {levels}")
        check_known("fuse_type", FUSE_SCALES, fuse_type)
        self.in_names = [spec.name for spec in feature_specs]
        self.fuse_type = fuse_type
        self.inner_blocks = nn.ModuleList(
            conv_norm_act(spec.channels, out_channels, 1, norm=norm, activation=activation) for spec in feature_specs
        )
        self.layer_blocks = nn.ModuleList(
            conv_norm_act(out_channels, out_channels, 3, norm=norm, activation=activation) for _ in feature_specs
        )
        specs = [FeatureSpec(f"p{spec.level}", spec.level, out_channels, spec.stride) for spec in feature_specs]
        self.extra_blocks = ExtraLevels(extra_levels, feature_specs[-1], specs[-1], relu_before_extra_convs)
        self.feature_specs = (*specs, *self.extra_blocks.specs)

    def forward_pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return one map per input level, fine to coarse (P2 to P5), without the extra levels."""
        merged: Tensor | None = None
        outputs = []
        for name, inner, layer in reversed(list(zip(self.in_names, self.inner_blocks, self.layer_blocks))):
            lateral = inner(features[name])
            merged = lateral if merged is None else self._merge(lateral, merged)
            outputs.append(layer(merged))
        return outputs[::-1]

    def _merge(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """Combine a lateral map with the coarser map, resized to its size."""
        if coarser.shape[-2:] == lateral.shape[-2:]:
            merged = lateral + coarser
        else:  # add in place: nothing else reads the resized map
            merged = F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest").add_(lateral)
        return self._scale_sum(merged)

    def _scale_sum(self, total: Tensor) -> Tensor:
        return total if self.fuse_type == "sum" else total * FUSE_SCALES[self.fuse_type]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.forward_pyramid(features)
        outputs += self.extra_blocks(features[self.in_names[-1]], outputs[-1])
        return {spec.name: output for spec, output in zip(self.feature_specs, outputs)}
