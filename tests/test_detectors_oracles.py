"""detectron2's Mask R-CNN in FPN, DC5 and C4 form, reproduced from its own keys.

What differs is order: detectron2 counts the background last and has no box deltas for it, and lists a cell's anchors by
size, then ratio; here the background is first and ratios come first, as in torchvision.
"""

import re

import numpy as np
import pytest
import torch
from helpers import oracle, oracle_weights, relative_error, thinned
from torchvision.models.detection.image_list import ImageList

from detbackbones import build_detector

CAFFE = dict(stride_in_1x1=True)
FORMS = {
    "fpn": dict(backbone=dict(type="resnet50", **CAFFE), neck="fpn"),
    "dc5": dict(backbone=dict(type="resnet50_dc5", out_features=("c5",), **CAFFE), neck="none"),
    "c4": dict(backbone=dict(type="resnet50", out_features=("c4", "c5"), **CAFFE), neck="none", roi_stage="c5"),
}
KEYS = (
    (r"^backbone\.fpn_lateral(\d)\.", lambda m: f"neck.inner_blocks.{int(m[1]) - 2}.0."),
    (r"^backbone\.fpn_output(\d)\.", lambda m: f"neck.layer_blocks.{int(m[1]) - 2}.0."),
    (r"^backbone\.(?:bottom_up\.)?stem\.", "backbone."),
    (r"^backbone\.(?:bottom_up\.)?res(\d)\.", lambda m: f"backbone.layer{int(m[1]) - 1}."),
    (r"^roi_heads\.res5\.", "roi_heads.box_head.stage."),
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


def by_ratio(value, sizes, ratios=3):
    """Rows of anchors in detectron2's order (size, ratio) to ratio, size."""
    return value.unflatten(0, (sizes, ratios, -1)).transpose(0, 1).flatten(0, 2)


def ours(state, sizes):
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in KEYS:
            key = re.sub(pattern, replacement, key)
        if key.startswith(("rpn.head.cls_logits.", "rpn.head.bbox_pred.")):
            value = by_ratio(value, sizes)
        elif ".cls_score." in key:
            value = torch.cat([value[-1:], value[:-1]])
        elif ".box_predictor.bbox_pred." in key:
            value = torch.cat([torch.zeros_like(value[:4]), value])
        elif ".mask_fcn_logits." in key:
            value = torch.cat([torch.zeros_like(value[:1]), value])
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", FORMS)
def test_detectron2_is_reproduced(oracles, name):
    facts, expected = oracle(oracles, f"detectron2_mask_rcnn_r50_{name}")
    cfg = dict(type="mask_rcnn", num_classes=80, roi_aligned=True, roi_sampling_ratio=0, **FORMS[name])
    sizes = 1 if name == "fpn" else 5
    detector = build_detector(cfg).eval()
    report = detector.load_state_dict(ours(oracle_weights(facts["keys"]), sizes), strict=False)
    assert not report.unexpected_keys and all(k.endswith("num_batches_tracked") for k in report.missing_keys)

    image = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, 160, 224)).astype(np.float32))
    errors = {}
    with torch.no_grad():
        features = detector.neck(detector.backbone(image))
        maps = list(features.values())
        for key, feature in features.items():
            errors[key] = relative_error(thinned(feature), expected[f"feature_{key.replace('c', 'res')}"])
        logits, deltas = detector.rpn.head(maps)
        anchors = detector.rpn.anchor_generator(ImageList(image, [(160, 224)]), maps)[0]
        counts = detector.rpn.anchor_generator.per_level(maps)
        for i, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors.split(counts))):
            # back to detectron2's order (size, ratio) to compare all that it wrote down
            logit = logit[0].unflatten(0, (3, sizes)).transpose(0, 1).flatten(0, 1)[None]
            delta = delta[0].unflatten(0, (3, sizes, 4)).transpose(0, 1).flatten(0, 2)[None]
            errors[f"logits {i}"] = relative_error(thinned(logit), expected[f"rpn_logits_{i}"])
            errors[f"deltas {i}"] = relative_error(thinned(delta), expected[f"rpn_deltas_{i}"])
            anchor = anchor.unflatten(0, (-1, 3, sizes)).transpose(1, 2).flatten(0, 2)
            errors[f"anchors {i}"] = relative_error(anchor[:64], expected[f"anchors_{i}"])
        heads, boxes = detector.roi_heads, [expected["boxes"]]
        scores, box_deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, [(160, 224)])))
        errors["scores"] = relative_error(torch.cat([scores[:, 1:], scores[:, :1]], 1), expected["box_scores"])
        errors["box deltas"] = relative_error(box_deltas[:, 4:], expected["box_deltas"])
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, [(160, 224)])))[:, 1:]
        assert list(masks.shape) == facts["outputs"]["mask_logits"]
        errors["masks"] = relative_error(thinned(masks), expected["mask_logits"])
    print(name, {k: f"{v:.1e}" for k, v in errors.items()})
    assert max(errors.values()) <= 1e-4, errors
