"""Extra coarse levels of a pyramid (P6, P7)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import check_known
from ..layers.conv_norm_act import conv_norm_act
from ..specs import FeatureSpec

NUM_LEVELS = {"none": 0, "max_pool": 1, "conv_on_input": 2, "conv_on_output": 2}


class ExtraLevels(nn.ModuleDict):
    """Append levels to a pyramid, each at twice the stride of the one before.

    Args:
        kind: "max_pool" appends one level, every second cell of the deepest output (FPN paper, section 4.1, footnote);
            "conv_on_input" appends two by 3x3 convolutions of stride 2 on the deepest input, usually C5 (RetinaNet,
            arXiv:1708.02002); "conv_on_output" the same on the deepest output, usually P5 (FCOS, arXiv:1904.01355);
            "none" appends nothing.
        deepest_in, deepest_out: FeatureSpec of the deepest input and output of the pyramid.
        relu_before_extra_convs: ReLU between the two convolutions (detectron2 and torchvision have it, mmdetection does
            not by default).

    Attributes:
        specs: FeatureSpec of every appended level.

    Raises:
        InputError: `kind` is unknown.
    """

    def __init__(
        self, kind: str, deepest_in: FeatureSpec, deepest_out: FeatureSpec, relu_before_extra_convs: bool = True
    ):
        super().__init__()
        check_known("extra_levels", NUM_LEVELS, kind)
        self.kind, self.relu_before_extra_convs = kind, relu_before_extra_convs
        levels = range(deepest_out.level + 1, deepest_out.level + 1 + NUM_LEVELS[kind])
        self.specs = tuple(
            FeatureSpec(f"p{level}", level, deepest_out.channels, deepest_out.stride * 2 ** (level - deepest_out.level))
            for level in levels
        )
        if not kind.startswith("conv"):
            return
        in_channels = deepest_in.channels if kind == "conv_on_input" else deepest_out.channels
        for spec in self.specs:
            (self[spec.name],) = conv_norm_act(in_channels, spec.channels, 3, stride=2)
            in_channels = spec.channels

    def forward(self, deepest_in: Tensor, deepest_out: Tensor) -> list[Tensor]:
        """Return the appended maps: N x C x ceil(H / 2) x ceil(W / 2), and the next with half of these sides."""
        if self.kind == "max_pool":
            return [F.max_pool2d(deepest_out, 1, stride=2)]
        x = deepest_in if self.kind == "conv_on_input" else deepest_out
        outputs: list[Tensor] = []
        for conv in self.values():
            if outputs and self.relu_before_extra_convs:
                x = F.relu(x)
            x = conv(x)
            outputs.append(x)
        return outputs
