"""Check arguments of a ResNet against each other."""

from collections.abc import Sequence

from ..errors import InputError
from .stage_plan import Layout


def check_arguments(
    layout: Layout,
    out_features: Sequence[str],
    multi_grid: Sequence[int] | None,
    num_classes: int | None,
    groups: int,
    width_per_group: int,
) -> None:
    """Raise InputError for arguments that this network cannot honour."""
    defaults = {"groups": (groups, 1), "width_per_group": (width_per_group, 64)}
    defaults["stride_in_1x1"] = (layout.stride_in_1x1, False)
    changed = [f"{name}={value}" for name, (value, default) in defaults.items() if value != default]
    if changed and not layout.bottleneck:
        raise InputError(f"{', '.join(changed)}: only Bottleneck blocks have this; ResNet-18 and 34 have BasicBlocks")
    deepest, num_blocks = layout.stage_names[-1], layout.layers[-1]
    if multi_grid is not None and len(multi_grid) != num_blocks:
        raise InputError(
            f"multi_grid must have {num_blocks} factors, one per block of {deepest}, got {len(multi_grid)}"
        )
    if (num_classes is not None or multi_grid is not None) and deepest not in out_features:
        raise InputError(f"num_classes and multi_grid need {deepest} in out_features, got {tuple(out_features)}")
