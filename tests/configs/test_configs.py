"""Every ready config: it builds with every backbone, it types no geometry, and it keeps the published numbers."""

import re

import pytest
import torch

from detbackbones import build_detector, list_backbones
from detbackbones.engine.config import CONFIG_DIR, load_config

CONFIGS = [path.stem for path in sorted(CONFIG_DIR.glob("[!_]*.py"))]
COCO = [name for name in CONFIGS if name.endswith("_coco")]
GRAMMAR = re.compile(
    r"(faster_rcnn|mask_rcnn|retinanet)_(res[a-z0-9]+(?:_\d+x\d+d)?)_(dilated_fpn|fpn|dc5|c4)_(1x|3x)_coco"
)
STANDARD = [name for name in COCO if GRAMMAR.fullmatch(name)]  # the others are recipes, see test_recipes.py
STRIDES = {
    "fpn": {"c2": 4, "c3": 8, "c4": 16, "c5": 32},
    "dilated_fpn": {"c2": 4, "c3": 8, "c4": 8, "c5": 8},
    "dc5": {"c5": 16},
    "c4": {"c4": 16},
}


def build(config, **overrides):
    with torch.device("meta"):
        return build_detector(config.model, load_weights=False, **overrides)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_builds_what_its_name_says(name):
    config = load_config(name)
    detector = build(config)
    build(load_config(name, {"backbone": "resnext101_32x8d_dilated", "weights": None}))
    if name not in STANDARD:
        return
    kind, backbone, structure, schedule = GRAMMAR.fullmatch(name).groups()
    assert config.model["type"] == kind
    assert config.model["backbone"]["type"].startswith(backbone)
    assert (config.model["backbone"]["norm"], config.model["backbone"]["freeze"]) == ("frozen", 2)
    assert (config.max_iters, config.batch_size) == ({"1x": 90_000, "3x": 270_000}[schedule], 16)
    assert config.optimizer["lr"] == (0.01 if kind == "retinanet" else 0.02)
    strides = {spec.name: spec.stride for spec in detector.backbone.feature_specs}
    expected = {level: s for level, s in STRIDES[structure].items() if kind != "retinanet" or level != "c2"}
    assert strides == expected
    anchors = detector.anchor_generator if kind == "retinanet" else detector.rpn.anchor_generator
    assert {round(size) for level in anchors.sizes for size in level} >= {32, 64, 128, 256, 512}


@pytest.mark.parametrize("backbone", [name for name in list_backbones("res*") if "_cifar" not in name])
def test_every_backbone_fits_by_name(backbone):
    config = load_config("mask_rcnn_resnet50_fpn_1x_coco", {"backbone": backbone, "weights": None})
    assert config.model["backbone"]["type"] == backbone
    assert [spec.name for spec in build(config).neck.feature_specs] == ["p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize("neck", ["fpn", "pafpn"])
def test_a_neck_fits_by_name(neck):
    config = load_config("mask_rcnn_resnet50_fpn_1x_coco", {"neck": neck, "weights": None})
    assert type(build(config).neck).__name__ == neck.upper()


@pytest.mark.parametrize("name", COCO)
def test_it_carries_published_numbers(name):
    published = load_config(name).published
    assert set(published) == {"box_ap", "mask_ap", "source"}
    if published["box_ap"] is None:
        assert published["mask_ap"] is None
        assert "dilated_fpn" in name or name.startswith("retinanet_resnet50_dc5")
    else:
        assert 30 < published["box_ap"] < 50
        assert (published["mask_ap"] is not None) == name.startswith("mask_rcnn")


@pytest.mark.parametrize(
    "name, box_ap, mask_ap",
    [
        ("mask_rcnn_resnet50_fpn_3x_coco", 41.0, 37.2),
        ("mask_rcnn_resnet101_c4_3x_coco", 42.6, 36.7),
        ("faster_rcnn_resnet50_dc5_1x_coco", 37.3, None),
        ("mask_rcnn_resnext101_64x4d_fpn_1x_coco", 42.8, 38.4),
        ("retinanet_resnet101_fpn_3x_coco", 40.4, None),
    ],
)
def test_published_numbers(name, box_ap, mask_ap):
    """Spot checks against detectron2's MODEL_ZOO.md and mmdetection's metafiles."""
    published = load_config(name).published
    assert (published["box_ap"], published["mask_ap"]) == (box_ap, mask_ap)


def test_other_names_are_recipes():
    for name in set(COCO) - set(STANDARD):
        assert "Not trained here." in (CONFIG_DIR / f"{name}.py").read_text(), f"{name} does not follow the grammar"


def test_every_structure_has_1x_and_3x():
    structures = {
        "faster_rcnn": ("fpn", "dilated_fpn", "dc5", "c4"),
        "mask_rcnn": ("fpn", "dilated_fpn", "dc5", "c4"),
        "retinanet": ("fpn", "dilated_fpn", "dc5"),
    }
    for kind, names in structures.items():
        for structure in names:
            assert {f"{kind}_resnet50_{structure}_{schedule}_coco" for schedule in ("1x", "3x")} <= set(COCO)


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.rglob("*.py")), ids=lambda path: path.stem)
def test_no_geometry_is_typed(path):
    """Configs have no strides, input channels or anchor sizes, and those of one model have at most four lines."""
    text = path.read_text()
    assert not re.search(r"\b(strides?|in_channels|anchor_sizes|featmap_strides|scales?)\s*=", text)
    if path.stem in STANDARD:
        assert len([line for line in text.splitlines() if line.strip()]) <= 4
