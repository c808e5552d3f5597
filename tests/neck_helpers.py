"""Declared pyramids, and the comparison with mmdetection's necks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from helpers import oracle, oracle_weights, relative_error, thinned
from torch import Tensor

from detbackbones import FeatureSpec, build_neck


def declared(strides: Sequence[int], levels: Sequence[int] = (2, 3, 4, 5)) -> list[FeatureSpec]:
    """Return the specs of a backbone with these strides and a different number of channels per level."""
    return [FeatureSpec(f"c{level}", level, 8 * level, stride) for level, stride in zip(levels, strides)]


PYRAMIDS = {
    "standard": declared((4, 8, 16, 32)),
    "output stride 8": declared((4, 8, 8, 8)),
    "output stride 16": declared((4, 8, 16, 16)),
    "skipped level": declared((4, 16, 32), (2, 4, 5)),
    "from c3": declared((8, 16, 32), (3, 4, 5)),
    "from c2 to c3": declared((4, 8)),
    "dilated c5 alone": declared((16,), (5,)),
}
MMDET_PARTS = {
    "lateral_convs": "inner_blocks",
    "fpn_convs": "layer_blocks",
    "downsample_convs": "down_blocks",
    "pafpn_convs": "out_blocks",
}


def convert_mmdetection(state: dict[str, Tensor], num_levels: int) -> dict[str, Tensor]:
    """Return a state dict of mmdetection's necks under our keys; P6 and P7 are the last of its `fpn_convs`."""
    converted = {}
    for key, value in state.items():
        part, index, _, last = key.split(".")
        if part == "fpn_convs" and int(index) >= num_levels:
            converted[f"extra_blocks.p{int(index) - num_levels + 6}.{last}"] = value
        else:
            converted[f"{MMDET_PARTS[part]}.{index}.0.{last}"] = value
    return converted


def check_mmdetection(oracles: Path, name: str, cfg: dict, first_level: int = 2) -> None:
    """Compare a neck with recorded outputs of mmdetection on random C2 to C5 of an image of 97 x 130."""
    facts, expected = oracle(oracles, name)
    specs = [FeatureSpec(f"c{level}", level, 128 * 2 ** (level - 1), 2**level) for level in (2, 3, 4, 5)]
    neck = build_neck(cfg, specs[first_level - 2 :])
    neck.load_state_dict(convert_mmdetection(oracle_weights(facts["keys"]), num_levels=6 - first_level))
    random = np.random.RandomState(11)
    features = {}
    for spec in specs:
        feature = random.standard_normal((1, spec.channels, -(-97 // spec.stride), -(-130 // spec.stride)))
        features[spec.name] = torch.from_numpy(feature.astype(np.float32))
    with torch.no_grad():
        outputs = neck(features)
    assert [list(output.shape) for output in outputs.values()] == list(facts["outputs"].values())
    for output, theirs in zip(outputs.values(), expected.values(), strict=True):
        assert relative_error(thinned(output), theirs) <= 1e-5
