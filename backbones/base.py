"""The contract of a backbone: a batch of images in, the features asked for out, their geometry declared."""

import torch
from torch import Tensor, nn

from ..specs import FeatureSpec
from ..layers.fuse import fuse_for_inference
from .preprocess import Preprocess


class Backbone(nn.Module):
    """What detectors and tools read of a backbone. A child sets the attributes and defines `levels`.

    Attributes:
        built_specs: FeatureSpec of every level that is built, shallow to deep.
        feature_specs: the same of those that `forward` returns, in its order.
        size_divisor: input sides that are multiples of it give exactly the declared strides; others work too.
        preprocess: RGB images, uint8 or float in [0, 1], to what the weights expect.
        identity_left: what takes the features out of the a-trous identity, by name; empty where it holds.
        undilated: arguments that build the network without dilation.
    """

    built_specs: tuple[FeatureSpec, ...]
    preprocess: Preprocess
    identity_left: tuple[str, ...]
    undilated: dict
    outputs: frozenset[str]

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        return tuple(spec for spec in self.built_specs if spec.name in self.outputs)

    @property
    def size_divisor(self) -> int:
        return max(spec.stride for spec in self.built_specs)

    def checked(self, images: Tensor) -> Tensor:
        """`images` in channels_last memory; ValueError where they are no preprocessed batch N x C x H x W."""
        channels = self.preprocess.channels
        if images.dim() != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise ValueError(f"expected preprocessed float images N x {channels} x H x W, got {images.dtype} "
                             f"{tuple(images.shape)}")  # fmt: skip
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """N x C x H x W float, preprocessed -> {"c2": N x 256 x ceil(H / 4) x ceil(W / 4), ...}, shallow to deep.

        Raises ValueError for anything else than such a batch.
        """
        return {name: feature for name, feature in self.levels(self.checked(images)).items() if name in self.outputs}

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Every level that is asked for by name; others may be there too, but would be kept while deeper ones run."""
        raise NotImplementedError

    def fuse_for_inference(self) -> "Backbone":
        """A faster copy for deployment, see fuse.py."""
        return fuse_for_inference(self)
