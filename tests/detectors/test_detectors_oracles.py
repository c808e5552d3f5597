"""detectron2's Mask R-CNN in FPN, DC5 and C4 form, reproduced from its own state-dict keys.

What differs is order. detectron2 has the background as last class, no box deltas and no mask for it, and lists the
anchors of a cell by size, then ratio. Here the background is the first class and ratios come first, as in torchvision.
"""

import shutil

import numpy as np
import pytest
import torch
from helpers import oracle, oracle_weights, relative_error, thinned
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detbackbones.detectors.pretrained import build_from_source
from detbackbones.weights.detectron2_sources import read_detectron2_file

IMAGE_SIZE = (160, 224)


def swap_anchor_axes(value: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder anchors along axis 0: (outer, inner, rest) -> (inner, outer, rest)."""
    return value.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


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


@pytest.mark.parametrize("name", ["fpn", pytest.param("dc5", marks=pytest.mark.slow), "c4"])
@torch.no_grad()
def test_detectron2_is_reproduced(oracles, tmp_path, name):
    facts, expected = oracle(oracles, f"detectron2_mask_rcnn_r50_{name}")
    shutil.copy(oracles / f"detectron2_end_to_end_mask_rcnn_r50_{name}.yaml", tmp_path / "cfg.yaml")
    source = read_detectron2_file(tmp_path / "model_final.pth", oracle_weights(facts["keys"]))
    detector = build_from_source(source).eval()
    sizes = 1 if name == "fpn" else 5

    image = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, *IMAGE_SIZE)).astype(np.float32))
    features = detector.neck(detector.backbone(image.flip(1)))  # detectron2 takes BGR
    actual = {f"feature_{level.replace('c', 'res')}": thinned(feature) for level, feature in features.items()}
    actual |= rpn_outputs(detector, features, image, sizes)
    actual |= roi_outputs(detector.roi_heads, features, expected["boxes"], name == "c4")
    assert actual.keys() == expected.keys() - {"boxes"}
    errors = {key: relative_error(value, expected[key]) for key, value in actual.items()}
    assert max(errors.values()) <= 1e-4, errors
