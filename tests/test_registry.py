"""Parts by name: building, listing, parts of third parties, and errors that name the nearest known word."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import input_error
from torch import nn

from detbackbones import (
    BACKBONES,
    NECKS,
    PROPOSAL_GENERATORS,
    ROI_HEADS,
    FeatureSpec,
    build_backbone,
    build_detector,
    build_neck,
    describe,
    list_backbones,
    list_detectors,
    list_necks,
)
from detbackbones.registry import accepted_arguments, build, import_modules, lookup

SPECS = [FeatureSpec("p4", 4, 16, 16)]


@pytest.fixture
def registered():
    """Function that registers a factory under a name, for one test."""
    added = []

    def register(registry, name, factory):
        registry.register_module(name=name, module=factory)
        added.append((registry, name))
        return factory

    yield register
    for registry, name in added:
        del registry.module_dict[name]


def test_lists():
    assert {"resnet50", "resnext50_32x4d_dc5", "timm"} <= set(list_backbones())
    assert list_backbones("resnet50*") == [
        "resnet50",
        "resnet50_dc5",
        "resnet50_dilated",
        "resnet50d",
        "resnet50d_dc5",
        "resnet50d_dilated",
    ]
    assert list_necks("*fpn") == ["fpn", "pafpn"]
    assert set(list_detectors()) == {"faster_rcnn", "mask_rcnn", "retinanet"}


def test_a_name_can_be_registered_once():
    lookup(BACKBONES, "resnet50")
    with pytest.raises(KeyError, match="resnet50"):
        BACKBONES.register_module(name="resnet50", module=nn.Identity)


@pytest.mark.parametrize("cfg", ["resnet18", {"type": "resnet18"}])
def test_overrides_replace_arguments_of_the_config(cfg):
    backbone = build_backbone(cfg, out_features=("c2",))
    assert [spec.name for spec in backbone.feature_specs] == ["c2"]


def test_a_config_is_not_changed():
    cfg = dict(type="resnet18", out_features=("c1",))
    build_backbone(cfg, in_channels=1)
    assert cfg == dict(type="resnet18", out_features=("c1",))


def test_a_built_part_is_returned_as_it_is():
    backbone = build_backbone("resnet18", out_features=("c1",))
    assert build_backbone(backbone) is backbone
    neck = build_neck("identity", backbone.feature_specs)
    assert build_neck(neck, backbone.feature_specs) is neck


def test_load_weights_is_passed_only_to_backbones_that_take_it(registered):
    registered(BACKBONES, "without_weights", lambda width=1: ("built", width))
    assert build_backbone("without_weights", load_weights=False) == ("built", 1)
    assert build_backbone("resnet18", weights="unread.pth", load_weights=False)


def test_parts_of_detectors():
    rpn = build(PROPOSAL_GENERATORS, dict(type="rpn", anchor_scale=4.0), feature_specs=SPECS)
    heads = build(ROI_HEADS, "standard", feature_specs=SPECS, num_classes=3)
    assert rpn.head(list(torch.randn(1, 1, 16, 4, 4)))[0][0].shape == (1, 15, 4, 4)
    assert heads.box_predictor.cls_score.out_features == 4


@pytest.mark.parametrize(
    "build_part,words",
    [
        (lambda: build_backbone("resnet101_dilatd"), ("'resnet101_dilatd'", "did you mean resnet101_dilated")),
        (lambda: build_backbone("resnet18", output_strid=8), ("'output_strid'", "did you mean output_stride")),
        (lambda: build_backbone("resnet18", block=None), ("'block'",)),
        (lambda: build_backbone({"out_features": ("c1",)}), ("'type'",)),
        (lambda: build_backbone("tim:resnet18"), ("'tim:resnet18'",)),
        (lambda: build_backbone("timm:resnet18", grups=1), ("'grups'",)),
        (lambda: build_backbone("timm"), ("timm", "'model'")),
        (lambda: build_neck("fpm", SPECS), ("'fpm'", "did you mean fpn")),
        (lambda: build_neck(dict(type="fpn", out_chanels=1), SPECS), ("'out_chanels'", "did you mean out_channels")),
        (lambda: build(PROPOSAL_GENERATORS, "rpm"), ("'rpm'", "rpn")),
        (lambda: build(ROI_HEADS, "standrd"), ("'standrd'", "did you mean standard")),
        (lambda: build(ROI_HEADS, "standard", feature_specs=SPECS), ("standard", "'num_classes'")),
        (lambda: build_detector("mask_rcn"), ("'mask_rcn'", "did you mean mask_rcnn")),
        (lambda: build_detector("mask_rcnn", bakbone="resnet18"), ("'bakbone'", "did you mean backbone")),
        (lambda: build_backbone(None), ("backbone must be a name", "got None")),
        (lambda: build_backbone(nn.Identity), ("backbone must be a name", "Identity")),
        (lambda: build_neck(["fpn"], SPECS), ("neck must be a name", "['fpn']")),
        (lambda: build_backbone(nn.Identity(), norm="group"), ("built Identity", "norm")),
        (lambda: build_detector(nn.Identity(), num_classes=3), ("built Identity", "num_classes")),
        (lambda: describe(build_backbone("resnet18", out_features=("c1",)), norm="group"), ("built ResNet", "norm")),
    ],
)
def test_errors_name_the_culprit_and_the_nearest_word(build_part, words):
    with input_error(*words):
        build_part()


class Parent:
    def __init__(self, first, second=0):
        pass


class Child(Parent):
    def __init__(self, third, **kwargs):
        super().__init__(**kwargs)


class Grandchild(Child):
    pass


@pytest.mark.parametrize(
    "factory,expected",
    [
        (Parent, {"first", "second"}),
        (Child, {"first", "second", "third"}),
        (Grandchild, {"first", "second", "third"}),
        (functools.partial(Parent, 1), {"second"}),
        (lambda a, *, b=0: None, {"a", "b"}),
        (lambda **kwargs: None, None),
    ],
)
def test_accepted_arguments(factory, expected):
    accepted = accepted_arguments(factory)
    assert (accepted if accepted is None else set(accepted)) == expected


def test_the_decorator_registers_parts(registered):
    @functools.partial(registered, NECKS, "first_level")
    class FirstLevel(nn.Module):
        def __init__(self, feature_specs, scale: float = 1.0):
            super().__init__()
            self.feature_specs, self.scale = tuple(feature_specs[:1]), scale

    neck = build_neck(dict(type="first_level", scale=2.0), SPECS)
    assert isinstance(neck, FirstLevel)
    assert neck.scale == 2.0
    with input_error("'scal'", "did you mean scale?"):
        build_neck(dict(type="first_level", scal=2.0), SPECS)


def python(code: str, cwd: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd).stdout


def install(folder: Path, entry_points: str) -> None:
    """Write a distribution with a module `theirs`, importable from the folder."""
    (folder / "theirs.py").write_text("def tiny(width: int = 4):\n    return ('tiny', width)\n")
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def test_entry_points_add_parts(tmp_path):
    install(
        tmp_path, "[detbackbones.backbones]\ntiny_net = theirs:tiny\n[detbackbones.necks]\ntiny_neck = theirs:tiny\n"
    )
    code = """
from detbackbones import build_backbone, list_backbones, list_necks
print(build_backbone("tiny_net", width=7), list_backbones("tiny*"), list_necks("tiny*"))
"""
    assert python(code, tmp_path).strip() == "('tiny', 7) ['tiny_net'] ['tiny_neck']"


def test_an_entry_point_cannot_take_a_name_in_use(tmp_path):
    install(tmp_path, "[detbackbones.backbones]\nresnet50 = theirs:tiny\n")
    code = """
from detbackbones import InputError, list_backbones
try:
    list_backbones()
except InputError as error:
    print(error)
"""
    message = python(code, tmp_path)
    assert "theirs:tiny" in message
    assert "'resnet50'" in message


def test_import_modules_finds_the_working_directory(tmp_path):
    (tmp_path / "my_parts.py").write_text(
        "from detbackbones import BACKBONES\nBACKBONES.register_module(name='mine', module=lambda: 'built')\n"
    )
    code = """
import sys; sys.path.remove("")  # as in an installed program
from detbackbones import build_backbone
from detbackbones.registry import import_modules
import_modules("my_parts")
print(build_backbone("mine"))
"""
    assert python(code, tmp_path).strip() == "built"


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_parts.py").write_text("raise OSError('no disk\\nat all')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with input_error("'broken_parts'", "OSError: no disk at all"):
        import_modules(["broken_parts"])
    with input_error("'no_such_module'"):
        import_modules(["no_such_module"])
