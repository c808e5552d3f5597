"""Feature Pyramid Network, Lin et al. 2017 (arXiv:1612.03144), on any list of declared levels."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..features import FeatureSpec
from ..registry import NECKS


def conv(cin: int, cout: int, kernel: int) -> nn.Sequential:
    """A convolution under torchvision's key (`inner_blocks.0.0.weight`), initialised as in its FPN."""
    layer = nn.Conv2d(cin, cout, kernel, padding=kernel // 2)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer)


@NECKS.register_module(name="fpn")
class FPN(nn.Module):
    """Lateral 1x1, nearest top-down sum, 3x3 output; then one more level by subsampling the deepest (max-pool 1x1).

    The top-down step resizes to the finer map's own size, so repeated strides (4, 8, 8, 8), skipped strides
    (4, 16, 32) and sides that are no multiple of anything all work.

    Args:
        feature_specs: what comes in, shallow to deep.
        out_channels: width of every output level.
        extra_level: append the max-pooled level (P6 on P5), one level up at twice the stride.

    `forward` takes the backbone's dict and returns {"p2": N x out_channels x H x W, ...} in the order of
    `feature_specs`.
    """

    def __init__(self, feature_specs: Sequence[FeatureSpec], out_channels: int = 256, extra_level: bool = True):
        super().__init__()
        self.in_names = [spec.name for spec in feature_specs]
        self.inner_blocks = nn.ModuleList(conv(spec.channels, out_channels, 1) for spec in feature_specs)
        self.layer_blocks = nn.ModuleList(conv(out_channels, out_channels, 3) for _ in feature_specs)
        specs = [FeatureSpec(f"p{spec.level}", spec.level, out_channels, spec.stride) for spec in feature_specs]
        self.extra_name = None
        if extra_level:
            level = specs[-1].level + 1
            self.extra_name = f"p{level}"
            specs.append(FeatureSpec(self.extra_name, level, out_channels, specs[-1].stride * 2))
        self.feature_specs = tuple(specs)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        top, outputs = None, []
        for name, inner, layer in reversed(list(zip(self.in_names, self.inner_blocks, self.layer_blocks))):
            lateral = inner(features[name])
            if top is None:
                top = lateral
            elif top.shape[-2:] == lateral.shape[-2:]:
                top = lateral + top
            else:
                top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            outputs.insert(0, layer(top))
        if self.extra_name:
            outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
        return {spec.name: output for spec, output in zip(self.feature_specs, outputs)}
