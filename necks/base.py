"""Base class of necks: turns the backbone's feature maps into the maps that heads consume."""

from torch import Tensor, nn

from ..specs import FeatureSpec


class Neck(nn.Module):
    """Base class of all necks.

    A subclass takes the backbone's `feature_specs` as its first constructor argument, sets `feature_specs` and defines
    `forward`.

    Attributes:
        feature_specs: FeatureSpec of every map that `forward` returns, shallow to deep.
    """

    feature_specs: tuple[FeatureSpec, ...]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"c2": N x C x H x W, ...} -> {"p2": N x channels x H x W, ...} in the order of `feature_specs`."""
        raise NotImplementedError
