"""Convolutions of the stem: 7x7, 3x3, or the three 3x3 of ResNet-C and ResNet-D (arXiv:1812.01187)."""

from torch import Tensor, nn

from ..layers.conv import conv2d
from ..layers.fold import conv_norm
from ..layers.norm import Norm


class DeepStem(nn.Sequential):
    """Three 3x3 convolutions, the first with stride 2, in place of the 7x7 convolution; state-dict keys are timm's.

    The norm after the third convolution belongs to the network (`bn1`).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm):
        hidden = out_channels // 2
        super().__init__(
            conv2d(in_channels, hidden, 3, stride=2),
            norm(hidden),
            nn.ReLU(inplace=True),
            conv2d(hidden, hidden, 3),
            norm(hidden),
            nn.ReLU(inplace=True),
            conv2d(hidden, out_channels, 3),
        )

    def forward_hidden(self, x: Tensor) -> Tensor:
        """Compute the input of the last convolution, which the network runs together with its norm."""
        x = self[2](conv_norm(x, self[0], self[1]))
        return self[5](conv_norm(x, self[3], self[4]))


def stem_conv(stem: str, in_channels: int, out_channels: int, norm: Norm) -> nn.Module:
    """Build the convolution of a stem: "conv7" (7x7, stride 2), "deep" (three 3x3) or "cifar" (3x3, stride 1)."""
    if stem == "deep":
        return DeepStem(in_channels, out_channels, norm)
    kernel_size, stride = (7, 2) if stem == "conv7" else (3, 1)
    return conv2d(in_channels, out_channels, kernel_size, stride)
