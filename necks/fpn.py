"""Feature Pyramid Network, Lin et al. 2017 (arXiv:1612.03144), on any list of declared levels.

Words: lateral = the 1x1 convolution of an input level, top-down = the sum of laterals from the deepest to the finest,
output = the 3x3 convolution of such a sum. State-dict keys are torchvision's.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..specs import FeatureSpec
from ..errors import InputError, did_you_mean
from ..registry import NECKS
from .extra_levels import ExtraLevels
from ..layers.conv_norm_act import conv

FUSE = {"sum": 1.0, "average": 0.5}


@NECKS.register_module(name="fpn")
class FPN(nn.Module):
    """Lateral 1x1, nearest top-down merge, 3x3 output; then the extra levels.

    The top-down step resizes to the finer map's own size, so repeated strides (4, 8, 8, 8), skipped strides
    (4, 16, 32) and sides that are no multiple of anything all work. Its input levels are the backbone's
    `out_features`.

    Args:
        feature_specs: what comes in, shallow to deep.
        out_channels: width of every output level.
        extra_levels: "pool" (P6), "p6p7_on_c5", "p6p7_on_p5" or "none"; see ExtraLevels.
        extra_relu: see ExtraLevels.
        norm, activation: after every lateral and output convolution; None for neither (the paper).
        fuse: "sum", or "average" of the two maps that meet.

    Raises InputError for an unknown word, or for levels that do not go from fine to coarse.

    `forward` takes the backbone's dict and returns {"p2": N x out_channels x H x W, ...} in the order of
    `feature_specs`.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        out_channels: int = 256,
        extra_levels: str = "pool",
        extra_relu: bool = True,
        norm: str | None = None,
        activation: str | None = None,
        fuse: str = "sum",
    ):
        super().__init__()
        levels = [spec.level for spec in feature_specs]
        if not levels or levels != sorted(set(levels)):
            raise InputError(f"a pyramid wants different levels from fine to coarse, the backbone declares {levels}")
        if fuse not in FUSE:
            raise InputError(f"unknown fuse {fuse!r}; {did_you_mean(str(fuse), FUSE)}")
        self.in_names = [spec.name for spec in feature_specs]
        self.weight = FUSE[fuse]
        style = {"norm": norm, "activation": activation}
        self.inner_blocks = nn.ModuleList(conv(spec.channels, out_channels, 1, **style) for spec in feature_specs)
        self.layer_blocks = nn.ModuleList(conv(out_channels, out_channels, 3, **style) for _ in feature_specs)
        specs = [FeatureSpec(f"p{spec.level}", spec.level, out_channels, spec.stride) for spec in feature_specs]
        self.extra_blocks = ExtraLevels(extra_levels, feature_specs[-1], specs[-1], extra_relu)
        self.feature_specs = (*specs, *self.extra_blocks.specs)

    def pyramid(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The outputs on the backbone's own levels, fine to coarse."""
        top, outputs = None, []
        for name, inner, layer in reversed(list(zip(self.in_names, self.inner_blocks, self.layer_blocks))):
            lateral = inner(features[name])
            if top is not None:
                if top.shape[-2:] == lateral.shape[-2:]:
                    lateral = lateral + top
                else:  # the resized map is nobody else's, so it takes the sum
                    lateral = F.interpolate(top, size=lateral.shape[-2:], mode="nearest").add_(lateral)
                lateral = lateral if self.weight == 1 else lateral * self.weight
            top = lateral
            outputs.append(layer(top))
        return outputs[::-1]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.pyramid(features)
        outputs += self.extra_blocks(features[self.in_names[-1]], outputs[-1])
        return {spec.name: output for spec, output in zip(self.feature_specs, outputs)}
