"""No neck: the heads work on the backbone's own levels (C4, DC5)."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..specs import FeatureSpec
from ..registry import NECKS


@NECKS.register_module(name="none")
class NoNeck(nn.Module):
    """Hands the declared levels on as they are, names included."""

    def __init__(self, feature_specs: Sequence[FeatureSpec]):
        super().__init__()
        self.feature_specs = tuple(feature_specs)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {spec.name: features[spec.name] for spec in self.feature_specs}
