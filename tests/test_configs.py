"""Every ready config: it builds, it types no geometry, and it carries what the field reports."""

import re

import pytest
import torch

from detbackbones import build_detector, list_backbones
from detbackbones.engine.config import CONFIG_DIR, find_config, load_config, parse_overrides

CONFIGS = [path.stem for path in sorted(CONFIG_DIR.glob("*.py")) if path.stem != "__init__"]
COCO = [name for name in CONFIGS if name.endswith("_coco")]
GRAMMAR = re.compile(r"(faster_rcnn|mask_rcnn|retinanet)_(res\w+?)_(dilated_fpn|fpn|dc5|c4)_(1x|3x)_coco")


def loaded(name, *overrides):
    return load_config(find_config(name), parse_overrides(list(overrides)))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_builds_what_its_name_says(name):
    cfg = loaded(name)
    with torch.device("meta"):
        detector = build_detector(cfg.model.to_dict(), load_weights=False)
    if name not in COCO:
        return
    kind, backbone, structure, schedule = GRAMMAR.fullmatch(name).groups()
    assert cfg.model.type == kind and cfg.model.backbone.type.startswith(backbone)
    assert (cfg.max_iters, cfg.batch_size) == ({"1x": 90_000, "3x": 270_000}[schedule], 16)
    assert cfg.optimizer.lr == (0.01 if kind == "retinanet" else 0.02)
    assert (cfg.model.backbone["norm"], cfg.model.backbone["freeze"]) == ("frozen", 2)
    own = {s.name: s.stride for s in detector.backbone.feature_specs}
    c2 = {} if kind == "retinanet" else {"c2": 4}
    assert own == {"fpn": {**c2, "c3": 8, "c4": 16, "c5": 32}, "dilated_fpn": {**c2, "c3": 8, "c4": 8, "c5": 8},
                   "dc5": {"c5": 16}, "c4": {"c4": 16}}[structure]  # fmt: skip
    anchors = detector.anchor_generator if kind == "retinanet" else detector.rpn.anchor_generator
    assert {round(size) for level in anchors.sizes for size in level} >= {32, 64, 128, 256, 512}


@pytest.mark.parametrize("name", COCO)
def test_it_carries_what_the_field_reports(name):
    published = loaded(name).published
    assert set(published) == {"box_ap", "mask_ap", "source"} and published["source"]
    if published["box_ap"] is None:
        assert published["mask_ap"] is None and ("dilated_fpn" in name or name.startswith("retinanet_resnet50_dc5"))
    else:
        assert 30 < published["box_ap"] < 50 and (published["mask_ap"] is not None) == name.startswith("mask_rcnn")


def test_the_published_numbers_are_the_fields():
    """Spot checks against detectron2's MODEL_ZOO.md and mmdetection's metafiles."""
    numbers = {name: (loaded(name).published["box_ap"], loaded(name).published["mask_ap"]) for name in COCO}
    assert numbers["mask_rcnn_resnet50_fpn_3x_coco"] == (41.0, 37.2)
    assert numbers["mask_rcnn_resnet101_c4_3x_coco"] == (42.6, 36.7)
    assert numbers["faster_rcnn_resnet50_dc5_1x_coco"] == (37.3, None)
    assert numbers["mask_rcnn_resnext101_64x4d_fpn_1x_coco"] == (42.8, 38.4)
    assert numbers["retinanet_resnet101_fpn_3x_coco"] == (40.4, None)


def test_every_structure_has_1x_and_3x():
    structures = {"faster_rcnn": ("fpn", "dilated_fpn", "dc5", "c4"), "mask_rcnn": ("fpn", "dilated_fpn", "dc5", "c4"),
                  "retinanet": ("fpn", "dilated_fpn", "dc5")}  # fmt: skip
    wanted = {f"{kind}_resnet50_{s}_{x}_coco" for kind, all_of in structures.items() for s in all_of for x in ("1x", "3x")}
    assert wanted <= set(COCO)


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.rglob("*.py")), ids=lambda p: p.stem)
def test_no_geometry_is_typed(path):
    """No strides, input channels or anchor sizes; and a leaf has at most four lines."""
    text = path.read_text()
    assert not re.search(r"\b(strides?|in_channels|anchor_sizes|featmap_strides|scales?)\s*=", text)
    if path.stem in COCO:
        assert len([line for line in text.splitlines() if line.strip()]) <= 4


@pytest.mark.parametrize("backbone", [n for n in list_backbones("res*") if "_cifar" not in n])
def test_every_backbone_fits_by_name(backbone):
    cfg = loaded("mask_rcnn_resnet50_fpn_1x_coco", f"backbone={backbone}", "weights=none")
    with torch.device("meta"):
        detector = build_detector(cfg.model.to_dict())
    assert len(detector.roi_specs) == 4


def test_a_neck_by_name():
    for neck in ("pafpn", "fpn"):
        with torch.device("meta"):
            detector = build_detector(loaded("mask_rcnn_resnet50_fpn_1x_coco", f"neck={neck}", "weights=none").model.to_dict())
        assert type(detector.neck).__name__ == neck.upper()
    assert loaded("mask_rcnn_resnet50_dc5_1x_coco", "neck=none").model.neck.type == "none"
