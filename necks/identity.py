"""Identity neck: passes the backbone's maps to the heads unchanged (C4, DC5)."""

from collections.abc import Sequence

from torch import Tensor

from ..backbones.base import check_levels
from ..registry import NECKS
from ..specs import FeatureSpec
from .base import Neck


@NECKS.register_module(name="identity")
class Identity(Neck):
    """Return the backbone's levels unchanged, under their own names.

    Args:
        feature_specs: the backbone's.
        in_features: names of the levels to return; default: all.

    Raises:
        InputError: a name is unknown.
    """

    def __init__(self, feature_specs: Sequence[FeatureSpec], in_features: Sequence[str] | None = None):
        super().__init__()
        known = [spec.name for spec in feature_specs]
        names = known if in_features is None else in_features
        check_levels("in_features", known, names)
        self.feature_specs = tuple(spec for spec in feature_specs if spec.name in names)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {spec.name: features[spec.name] for spec in self.feature_specs}
