"""What pretrained weights expect of an image."""

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """RGB images to normalised input: `(image - mean) / std`.

    Takes uint8 in [0, 255] or float in [0, 1], `... x C x H x W`, and returns float32 of the same shape on the same
    device. `mean` and `std` are data of the weights, one value a channel; they are not part of the state dict.
    """

    def __init__(self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @classmethod
    def for_channels(cls, channels: int, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> "Preprocess":
        """RGB statistics for images of any number of channels: their mean for one channel, else RGB repeated."""
        if channels == 1:
            return cls((sum(mean) / len(mean),), (sum(std) / len(std),))
        return cls(*(tuple(values[i % len(values)] for i in range(channels)) for values in (mean, std)))

    @property
    def channels(self) -> int:
        return len(self.mean)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 or float in [0, 1], not {images.dtype}")
        white = 255 if images.dtype == torch.uint8 else 1
        mean, std = (self._along_rows(values * white, images) for values in (self.mean, self.std))
        return (images.float() - mean).div_(std)

    @staticmethod
    def _along_rows(values: Tensor, images: Tensor) -> Tensor:
        """C x 1 x 1 values, spelt out for a row of pixels where channels lie side by side in memory (decoded images do).

        Rows are then long runs for the processor's vector units; three values at a time are not (five times slower).
        """
        if images.stride(-3) != 1:
            return values
        return values.expand(-1, 1, images.shape[-1]).permute(1, 2, 0).contiguous().permute(2, 0, 1)
