"""Necks against torchvision's FPN and mmdetection's answers, on every kind of declared strides."""

import re

import numpy as np
import pytest
import torch
from helpers import maps, oracle, oracle_weights, randomise, relative_error, thinned
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detbackbones import FeatureSpec, InputError, build_neck, list_necks

STRIDES = [(4, 8, 16, 32), (4, 8, 8, 8), (4, 8, 16, 16), (4, 16, 32), (8, 16, 32), (16,)]


def declared(strides, first=2, channels=8):
    levels = {(4, 16, 32): (2, 4, 5), (8, 16, 32): (3, 4, 5), (16,): (5,)}.get(strides, range(first, first + len(strides)))
    return [FeatureSpec(f"c{i}", i, channels * i, s) for i, s in zip(levels, strides)]


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("extra,theirs_extra", [
    ("pool", lambda c5: LastLevelMaxPool()), ("none", lambda c5: None),
    ("p6p7_on_c5", lambda c5: LastLevelP6P7(c5, 16)), ("p6p7_on_p5", lambda c5: LastLevelP6P7(16, 16)),
])  # fmt: skip
@pytest.mark.parametrize("norm", [None, "batch"])
def test_fpn_equals_torchvision(strides, extra, theirs_extra, norm):
    specs = declared(strides)
    ours = build_neck(dict(type="fpn", out_channels=16, extra_levels=extra, norm=norm), specs)
    theirs = FeaturePyramidNetwork([s.channels for s in specs], 16, theirs_extra(specs[-1].channels),
                                   norm_layer=torch.nn.BatchNorm2d if norm else None)  # fmt: skip
    if specs[-1].level == 5:  # torchvision always says p6 and p7
        theirs.load_state_dict(randomise(ours).state_dict())
    else:
        randomise(ours)
        lift = 5 - specs[-1].level
        theirs.load_state_dict({re.sub(r"extra_blocks\.p(\d)", lambda m: f"extra_blocks.p{int(m[1]) + lift}", k): v
                                for k, v in ours.state_dict().items()})  # fmt: skip
    features = maps(specs, 90, 123)
    with torch.no_grad():
        results = list(zip(ours.eval()(features).values(), theirs.eval()(features).values(), strict=True))
    for a, b in results:
        assert relative_error(a, b) <= 1e-6


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("kind", [k for k in list_necks() if k != "none"])
@pytest.mark.parametrize("extra", ["pool", "none", "p6p7_on_c5"])
@pytest.mark.parametrize("side", [(192, 256), (97, 130), (1, 1)])
def test_maps_have_the_declared_geometry(strides, kind, extra, side):
    """Channels, names, and sizes: exactly side / stride for multiples, rounded up otherwise."""
    specs = declared(strides)
    neck = build_neck(dict(type=kind, out_channels=16, extra_levels=extra), specs)
    with torch.no_grad():
        outputs = neck(maps(specs, *side))
    assert list(outputs) == [s.name for s in neck.feature_specs] == [f"p{s.level}" for s in neck.feature_specs]
    assert [s.level for s in neck.feature_specs][: len(specs)] == [s.level for s in specs]
    above = len(neck.feature_specs) - len(specs)
    assert [s.stride for s in neck.feature_specs] == [*strides, *[strides[-1] * 2, strides[-1] * 4][:above]]
    for spec in neck.feature_specs:
        assert outputs[spec.name].shape == (1, spec.channels, *(-(-n // spec.stride) for n in side))


@pytest.mark.parametrize("name,cfg,first", [
    ("mmdet_fpn", dict(type="fpn"), 2),
    ("mmdet_fpn_p6p7_on_input", dict(type="fpn", extra_levels="p6p7_on_c5", extra_relu=False), 3),
    ("mmdet_pafpn", dict(type="pafpn"), 2),
])  # fmt: skip
def test_mmdetection_is_reproduced(oracles, name, cfg, first):
    facts, expected = oracle(oracles, name)
    specs = [s for s in (FeatureSpec(f"c{i}", i, 128 * 2 ** (i - 1), 2**i) for i in range(2, 6)) if s.level >= first]
    neck = build_neck(cfg, specs)
    count = len(specs)
    ours = {"lateral_convs": "inner_blocks", "fpn_convs": "layer_blocks",
            "downsample_convs": "down_blocks", "pafpn_convs": "out_blocks"}  # fmt: skip
    state = {}
    for key, value in oracle_weights(facts["keys"]).items():
        part, index, _, last = key.split(".")
        if part == "fpn_convs" and int(index) >= count:
            state[f"extra_blocks.p{int(index) - count + 6}.{last}"] = value
        else:
            state[f"{ours[part]}.{index}.0.{last}"] = value
    neck.load_state_dict(state)
    random = np.random.RandomState(11)
    features = {f"c{i}": random.standard_normal((1, 128 * 2 ** (i - 1), -(-97 // 2**i), -(-130 // 2**i))) for i in range(2, 6)}
    with torch.no_grad():
        outputs = neck({k: torch.from_numpy(v.astype(np.float32)) for k, v in features.items()})
    assert [list(o.shape) for o in outputs.values()] == list(facts["outputs"].values())
    for a, b in zip(outputs.values(), expected.values(), strict=True):
        assert relative_error(thinned(a), b) <= 1e-5


def test_average_halves_what_meets():
    """One level has nothing to meet; with two, the finer one sees half of each: linear in every input."""
    specs = declared((4, 8, 16, 32))[:2]
    cfg = dict(type="fpn", out_channels=8, extra_levels="none")
    total, mean = (build_neck(dict(cfg, fuse=fuse), specs) for fuse in ("sum", "average"))
    mean.load_state_dict(total.state_dict())
    features = maps(specs, 32, 48)
    with torch.no_grad():
        a, b = total(features), mean(features)
    bias = total.layer_blocks[0][0].bias.view(1, -1, 1, 1)
    torch.testing.assert_close(b["p2"] - bias, (a["p2"] - bias) / 2)
    torch.testing.assert_close(b["p3"], a["p3"])


def test_activation_and_group_norm_follow_every_convolution():
    neck = build_neck(dict(type="pafpn", out_channels=32, norm="group", activation="relu"), declared((4, 8, 16, 32)))
    convs = [m for m in neck.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in neck.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(convs) == len(norms) == 14 and all(c.bias is None for c in convs)
    assert all(o.min() >= 0 for o in neck(maps(declared((4, 8, 16, 32)), 64, 64)).values())


def test_none_hands_on_the_backbones_levels():
    specs = declared((4, 8, 16, 32))[2:]
    neck = build_neck("none", specs)
    features = maps(declared((4, 8, 16, 32)), 64, 64)
    assert neck.feature_specs == tuple(specs) and not list(neck.parameters())
    assert all(neck(features)[s.name] is features[s.name] for s in specs) and list(neck(features)) == ["c4", "c5"]


@pytest.mark.parametrize("cfg,specs,message", [
    (dict(type="fpn", extra_levels="p6p7"), declared((4, 8)), "did you mean p6p7_on"),
    (dict(type="fpn", fuse="avg"), declared((4, 8)), "did you mean average|known: average, sum"),
    (dict(type="fpn", norm="grup"), declared((4, 8)), "did you mean group"),
    (dict(type="pafpn", activation="rel"), declared((4, 8)), "did you mean relu"),
    (dict(type="fpn"), declared((4, 8))[::-1], r"fine to coarse, the backbone declares \[3, 2\]"),
    (dict(type="pafpn"), [FeatureSpec("c2", 2, 8, 4), FeatureSpec("c3", 3, 8, 6)], r"whole strides, .* \[4, 6\]"),
    (dict(type="none", out_channels=3), declared((4, 8)), "no argument 'out_channels'"),
])  # fmt: skip
def test_bad_neck(cfg, specs, message):
    with pytest.raises(InputError, match=message):
        build_neck(cfg, specs)
