"""Levels above the deepest one of a pyramid (P6, P7)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..specs import FeatureSpec
from ..errors import InputError, did_you_mean

KINDS = ("pool", "p6p7_on_c5", "p6p7_on_p5", "none")


class ExtraLevels(nn.ModuleDict):
    """What a pyramid appends, each level at twice the stride of the one before.

    Args:
        kind: "pool" appends one level, every second cell of the deepest output (FPN paper, section 4.1, footnote);
            "p6p7_on_c5" two by 3x3 convolutions of stride 2 on the deepest input (RetinaNet, Lin et al. 2017,
            arXiv:1708.02002), "p6p7_on_p5" two on the deepest output (FCOS, arXiv:1904.01355); "none" nothing.
            The names say C5 and P5; with another deepest level they mean that one.
        deepest_in, deepest_out: geometry of the deepest input and output of the pyramid.
        relu: ReLU between the two convolutions (detectron2, torchvision); mmdetection has none by default.

    Raises InputError for an unknown kind.

    Attributes:
        specs: FeatureSpec of every appended level.
    """

    def __init__(self, kind: str, deepest_in: FeatureSpec, deepest_out: FeatureSpec, relu: bool = True):
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"unknown extra_levels {kind!r}; {did_you_mean(str(kind), KINDS)}")
        self.kind, self.relu = kind, relu
        count = {"none": 0, "pool": 1}.get(kind, 2)
        self.specs = tuple(
            FeatureSpec(f"p{deepest_out.level + i}", deepest_out.level + i, deepest_out.channels, deepest_out.stride * 2**i)
            for i in range(1, count + 1)
        )
        if count == 2:
            cin = deepest_in.channels if kind == "p6p7_on_c5" else deepest_out.channels
            for spec in self.specs:
                self[spec.name] = nn.Conv2d(cin, spec.channels, 3, 2, padding=1)
                nn.init.kaiming_uniform_(self[spec.name].weight, a=1)
                nn.init.zeros_(self[spec.name].bias)
                cin = spec.channels

    def forward(self, deepest_in: Tensor, deepest_out: Tensor) -> list[Tensor]:
        """The appended maps, N x C x ceil(H / 2) x ceil(W / 2) and so on."""
        if self.kind == "pool":
            return [F.max_pool2d(deepest_out, 1, stride=2)]
        x, maps = deepest_in if self.kind == "p6p7_on_c5" else deepest_out, []
        for layer in self.values():
            x = layer(F.relu(x) if maps and self.relu else x)
            maps.append(x)
        return maps
