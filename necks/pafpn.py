"""Path Aggregation Network, Liu et al. 2018 (arXiv:1803.01534), section 3.1: an FPN and a bottom-up path on it."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..specs import FeatureSpec
from ..errors import InputError
from ..registry import NECKS
from .fpn import FPN
from ..layers.conv_norm_act import conv


@NECKS.register_module(name="pafpn")
class PAFPN(FPN):
    """FPN whose levels are merged once more, from the finest to the deepest; then the extra levels.

    A 3x3 convolution carries each level down by the ratio of the declared strides (1 where a stride repeats), is added
    to the next one, and a 3x3 convolution follows, as in mmdetection. Arguments, input and output: see FPN.

    Raises InputError where a stride is no multiple of the one before.
    """

    def __init__(self, feature_specs: Sequence[FeatureSpec], **options):
        super().__init__(feature_specs, **options)
        strides = [spec.stride for spec in feature_specs]
        if any(deep % fine for fine, deep in zip(strides, strides[1:])):
            raise InputError(f"pafpn steps from level to level by whole strides, the backbone declares {strides}")
        channels = self.feature_specs[0].channels
        style = {"norm": options.get("norm"), "activation": options.get("activation")}
        steps = [deep // fine for fine, deep in zip(strides, strides[1:])]
        self.down_blocks = nn.ModuleList(conv(channels, channels, 3, step, **style) for step in steps)
        self.out_blocks = nn.ModuleList(conv(channels, channels, 3, **style) for _ in steps)

    def pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        below, *rest = super().pyramid(features)
        outputs = [below]
        for level, down, out in zip(rest, self.down_blocks, self.out_blocks):
            below = level + down(below) if self.weight == 1 else (level + down(below)) * self.weight
            outputs.append(out(below))
        return outputs
