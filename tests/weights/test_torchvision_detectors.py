"""Published weights of torchvision's detectors load by their own keys."""

import re

import pytest
import torch
import torchvision

from detbackbones import build_detector
from detbackbones.weights.loading import fine_tune
from detbackbones.weights.recognition import detector_library
from detbackbones.weights.torchvision_detectors import (
    CLASS_LAYERS,
    CLASS_NAMES,
    TORCHVISION_CONFIGS,
    convert_torchvision_detector,
    select_classes,
)

# files from before torchvision 0.12 have these keys; torchvision's server still serves them
OLD_KEYS = (
    (r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"(classification_head|regression_head)\.conv\.(\d)\.0\.", lambda m: f"{m[1]}.conv.{2 * int(m[2])}."),
)


def random_state(name):
    """Return a state dict with torchvision's current keys."""
    with torch.device("meta"):
        network = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    return {key: torch.randn(value.shape) for key, value in network.state_dict().items()}


def published_state(name):
    """Return a state dict with the keys of the published file: old ones except in "_v2", and no counters of batches."""
    state = {key: value for key, value in random_state(name).items() if not key.endswith("num_batches_tracked")}
    for pattern, replacement in () if name.endswith("_v2") else OLD_KEYS:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("name", TORCHVISION_CONFIGS)
def test_published_keys_load(name):
    state = published_state(name)
    assert detector_library(state) == "torchvision"
    detector = build_detector(TORCHVISION_CONFIGS[name])
    assert fine_tune(detector, convert_torchvision_detector(state), "published.pth", CLASS_LAYERS) == []
    weights = dict(detector.named_parameters())
    suffix = "0.weight" if name.endswith("_v2") else "weight"
    deepest = 3 if "rcnn" in name else 2
    assert torch.equal(weights["backbone.layer4.2.conv3.weight"], state["backbone.body.layer4.2.conv3.weight"])
    assert torch.equal(
        weights[f"neck.layer_blocks.{deepest}.0.weight"], state[f"backbone.fpn.layer_blocks.{deepest}.{suffix}"]
    )


def test_our_own_keys_are_not_torchvisions():
    assert detector_library(build_detector("retinanet", backbone="resnet18").state_dict()) == "detbackbones"


def test_mask_rcnn_keeps_the_rows_of_known_classes():
    state = random_state("maskrcnn_resnet50_fpn")
    names = ["person", "dog", "toothbrush"]
    detector = build_detector(TORCHVISION_CONFIGS["maskrcnn_resnet50_fpn"], num_classes=3)
    converted = convert_torchvision_detector(state, names)
    assert fine_tune(detector, converted, "published.pth", CLASS_LAYERS) == []
    rows = [0, 1, 18, 90]  # background, and COCO's ids
    assert [CLASS_NAMES[row] for row in rows[1:]] == names
    weights = detector.state_dict()
    for key in ("roi_heads.box_predictor.cls_score.weight", "roi_heads.mask_predictor.mask_fcn_logits.weight"):
        assert torch.equal(weights[key], state[key][rows])
    key = "roi_heads.box_predictor.bbox_pred.bias"
    assert torch.equal(weights[key].view(-1, 4), state[key].view(-1, 4)[rows])


def test_retinanet_keeps_the_rows_of_known_classes():
    state = random_state("retinanet_resnet50_fpn")
    detector = build_detector(TORCHVISION_CONFIGS["retinanet_resnet50_fpn"], num_classes=3)
    converted = convert_torchvision_detector(state, ["person", "dog", "toothbrush"])
    assert fine_tune(detector, converted, "published.pth", CLASS_LAYERS) == []
    key = "head.classification_head.cls_logits.bias"
    assert torch.equal(detector.state_dict()[key].view(9, 3), state[key].view(9, 91)[:, [1, 18, 90]])


def test_predictors_for_all_classes_at_once_stay():
    state = {f"roi_heads.box_predictor.{name}.bias": torch.arange(4.0) for name in ("cls_score", "bbox_pred")}
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"] = torch.zeros(1)
    selected = select_classes(state, [3, 1], num_rows=4)
    assert [value.tolist() for value in selected.values()] == [[0, 3, 1], [0, 1, 2, 3], [0]]


@pytest.mark.parametrize(
    "name,class_layers",
    [
        (
            "maskrcnn_resnet50_fpn",
            [
                "roi_heads.box_predictor.cls_score",
                "roi_heads.box_predictor.bbox_pred",
                "roi_heads.mask_predictor.mask_fcn_logits",
            ],
        ),
        ("retinanet_resnet50_fpn", ["head.classification_head.cls_logits"]),
    ],
)
def test_class_layers_start_anew_for_unknown_classes(name, class_layers):
    detector = build_detector(TORCHVISION_CONFIGS[name], num_classes=2)
    converted = convert_torchvision_detector(random_state(name), ["person", "unicorn"])
    new_keys = fine_tune(detector, converted, "published.pth", CLASS_LAYERS)
    assert sorted(new_keys) == sorted(f"{layer}.{kind}" for layer in class_layers for kind in ("weight", "bias"))
