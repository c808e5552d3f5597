"""Path Aggregation Network, Liu et al. 2018 (arXiv:1803.01534), section 3.1: an FPN followed by a bottom-up path."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..layers.conv_norm_act import conv_norm_act
from ..registry import NECKS
from ..specs import FeatureSpec
from .fpn import FPN


@NECKS.register_module(name="pafpn")
class PAFPN(FPN):
    """FPN whose levels are merged once more, from the finest to the deepest; then the extra levels.

    A 3x3 convolution takes each level to the next one by the ratio of the declared strides (1 if a stride repeats);
    both are added, and a 3x3 convolution follows, as in mmdetection.

    Args:
        feature_specs: the backbone's, shallow to deep.
        options: as FPN.

    Raises:
        InputError: as FPN, or a stride is not a multiple of the one before.
    """

    def __init__(self, feature_specs: Sequence[FeatureSpec], **options: Any):
        super().__init__(feature_specs, **options)
        strides = [spec.stride for spec in feature_specs]
        if any(coarse % fine for fine, coarse in zip(strides, strides[1:])):
            raise InputError(f"pafpn needs strides that are multiples of the one before, got {strides}")
        channels = self.feature_specs[0].channels
        steps = [coarse // fine for fine, coarse in zip(strides, strides[1:])]
        norm, activation = options.get("norm"), options.get("activation")
        self.down_blocks = nn.ModuleList(conv_norm_act(channels, channels, 3, step, norm, activation) for step in steps)
        self.out_blocks = nn.ModuleList(conv_norm_act(channels, channels, 3, 1, norm, activation) for _ in steps)

    def forward_pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        finer, *levels = super().forward_pyramid(features)
        outputs = [finer]
        for level, down, out in zip(levels, self.down_blocks, self.out_blocks):
            finer = self._scale_sum(level + down(finer))
            outputs.append(out(finer))
        return outputs
