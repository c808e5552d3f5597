"""Normalise images with the mean and standard deviation that the pretrained weights were trained with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..weights.cards import IMAGENET_MEAN, IMAGENET_STD


class Preprocess(nn.Module):
    """Compute `(image - mean) / std` per channel.

    Args:
        mean, std: one value per channel, for images in [0, 1]. They describe the weights, but are not part of the state
            dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @classmethod
    def for_channels(
        cls, channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> "Preprocess":
        """Create a Preprocess for any number of image channels.

        Args:
            channels: number of image channels.
            mean, std: one value per channel, or those of RGB; ImageNet's if both are None. For one channel, the values
                of RGB are averaged; otherwise they repeat (four channels: R, G, B, R).

        Raises:
            InputError: one of them is missing, or they have another number of values.
        """
        if mean is None and std is None:
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        if mean is None or std is None or len(mean) != len(std) or len(mean) not in (3, channels):
            found = " and ".join("none" if values is None else str(len(values)) for values in (mean, std))
            raise InputError(f"mean and std need one value per channel ({channels}) or three, got {found}")
        if len(mean) == channels:
            return cls(mean, std)
        if channels == 1:
            return cls([sum(mean) / len(mean)], [sum(std) / len(std)])
        return cls(*([values[i % len(values)] for i in range(channels)] for values in (mean, std)))

    @property
    def channels(self) -> int:
        return len(self.mean)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images.

        Args:
            images: ... x C x H x W, uint8 in [0, 255] or float in [0, 1].

        Returns:
            float32 of the same shape on the same device.

        Raises:
            TypeError: the dtype is another one.
            ValueError: the number of channels is another one.
        """
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 or float in [0, 1], got {images.dtype}")
        if images.shape[-3] != self.channels:  # one channel would be broadcast
            raise ValueError(f"images must have {self.channels} channel(s), got {images.shape[-3]}")
        max_value = 255 if images.dtype == torch.uint8 else 1
        mean, std = self.mean * max_value, self.std * max_value
        if images.stride(-3) == 1:
            mean, std = (_repeat_along_rows(value, images.shape[-1]) for value in (mean, std))
        return (images.float() - mean).div_(std)


def _repeat_along_rows(values: Tensor, width: int) -> Tensor:
    """Expand C x 1 x 1 values to C x 1 x width in channels_last memory, the layout of decoded images.

    Broadcasting C x 1 x 1 over such an image is not vectorised and takes five times as long.
    """
    return values.permute(1, 2, 0).repeat(1, width, 1).permute(2, 0, 1)
