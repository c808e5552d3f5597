"""detectron2's Mask R-CNN in FPN, DC5 and C4 form, reproduced from its own state-dict keys.

What differs is order. detectron2 has the background as last class, no box deltas and no mask for it, and lists the
anchors of a cell by size, then ratio. Here the background is the first class and ratios come first, as in torchvision.
"""

import re

import numpy as np
import pytest
import torch
from helpers import oracle, oracle_weights, relative_error, thinned
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detbackbones import build_detector

IMAGE_SIZE = (160, 224)
FORMS = {
    "fpn": dict(backbone=dict(type="resnet50"), neck="fpn", roi_heads=dict(type="standard")),
    "dc5": dict(
        backbone=dict(type="resnet50_dc5", out_features=("c5",)), neck="identity", roi_heads=dict(type="standard")
    ),
    "c4": dict(
        backbone=dict(type="resnet50", out_features=("c4", "c5")),
        neck="identity",
        roi_heads=dict(type="stage", stage="c5"),
    ),
}
KEYS = (
    (r"^backbone\.fpn_lateral(\d)\.", lambda m: f"neck.inner_blocks.{int(m[1]) - 2}.0."),
    (r"^backbone\.fpn_output(\d)\.", lambda m: f"neck.layer_blocks.{int(m[1]) - 2}.0."),
    (r"^backbone\.(?:bottom_up\.)?stem\.", "backbone."),
    (r"^backbone\.(?:bottom_up\.)?res(\d)\.", lambda m: f"backbone.layer{int(m[1]) - 1}."),
    (r"^roi_heads\.res5\.", "roi_heads.stage."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"^roi_heads\.box_head\.fc1\.", "roi_heads.box_head.fc6."),
    (r"^roi_heads\.box_head\.fc2\.", "roi_heads.box_head.fc7."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)


def swap_anchor_axes(value: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder anchors along axis 0: (outer, inner, rest) -> (inner, outer, rest)."""
    return value.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def convert_state(state: dict[str, Tensor], sizes: int) -> dict[str, Tensor]:
    """Return detectron2's state dict under our keys and in our order; `sizes` is the number of sizes per cell."""
    converted = {}
    for key, value in state.items():
        for pattern, replacement in KEYS:
            key = re.sub(pattern, replacement, key)
        if key.startswith(("rpn.head.cls_logits.", "rpn.head.bbox_pred.")):
            value = swap_anchor_axes(value, sizes, 3)
        elif ".cls_score." in key:
            value = torch.cat([value[-1:], value[:-1]])
        elif ".box_predictor.bbox_pred." in key:
            value = torch.cat([torch.zeros_like(value[:4]), value])
        elif ".mask_fcn_logits." in key:
            value = torch.cat([torch.zeros_like(value[:1]), value])
        converted[key] = value
    return converted


def rpn_outputs(detector, features, image, sizes) -> dict[str, Tensor]:
    """Return logits, deltas and the first 64 anchors of every level in detectron2's order."""
    maps = list(features.values())
    logits, deltas = detector.rpn.head(maps)
    anchors = detector.rpn.anchor_generator(ImageList(image, [IMAGE_SIZE]), maps)[0]
    counts = detector.rpn.anchor_generator.anchors_per_level(maps)
    outputs = {}
    for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors.split(counts))):
        outputs[f"rpn_logits_{level}"] = thinned(swap_anchor_axes(logit[0], 3, sizes)[None])
        outputs[f"rpn_deltas_{level}"] = thinned(swap_anchor_axes(delta[0], 3, sizes)[None])
        outputs[f"anchors_{level}"] = anchor.unflatten(0, (-1, 3, sizes)).transpose(1, 2).flatten(0, 2)[:64]
    return outputs


def roi_outputs(heads, features, boxes, is_c4) -> dict[str, Tensor]:
    """Return the predictions for the given boxes in detectron2's order."""
    pooled = heads.box_roi_pool(features, [boxes], [IMAGE_SIZE])
    if is_c4:
        mask_features = heads.stage(pooled)
        box_features = mask_features.mean(dim=(2, 3))
    else:
        box_features = heads.box_head(pooled)
        mask_features = heads.mask_head(heads.mask_roi_pool(features, [boxes], [IMAGE_SIZE]))
    scores, deltas = heads.box_predictor(box_features)
    masks = heads.mask_predictor(mask_features)
    return {
        "box_scores": torch.cat([scores[:, 1:], scores[:, :1]], 1),
        "box_deltas": deltas[:, 4:],
        "mask_logits": thinned(masks[:, 1:]),
    }


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_detectron2_is_reproduced(oracles, name):
    facts, expected = oracle(oracles, f"detectron2_mask_rcnn_r50_{name}")
    cfg = dict(type="mask_rcnn", num_classes=80, **FORMS[name])
    cfg["backbone"] = cfg["backbone"] | dict(stride_in_1x1=True)
    cfg["roi_heads"] = cfg["roi_heads"] | dict(aligned=True, sampling_ratio=0)
    sizes = 1 if name == "fpn" else 5
    detector = build_detector(cfg).eval()
    state = convert_state(oracle_weights(facts["keys"]), sizes)
    report = detector.load_state_dict(state, strict=False)
    assert report.unexpected_keys == []
    assert [key for key in report.missing_keys if not key.endswith("num_batches_tracked")] == []

    image = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, *IMAGE_SIZE)).astype(np.float32))
    features = detector.neck(detector.backbone(image))
    actual = {f"feature_{level.replace('c', 'res')}": thinned(feature) for level, feature in features.items()}
    actual |= rpn_outputs(detector, features, image, sizes)
    actual |= roi_outputs(detector.roi_heads, features, expected["boxes"], name == "c4")
    assert actual.keys() == expected.keys() - {"boxes"}
    errors = {key: relative_error(value, expected[key]) for key, value in actual.items()}
    assert max(errors.values()) <= 1e-4, errors
