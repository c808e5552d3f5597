"""Faster and Mask R-CNN: composed of parts, in every form."""

import pytest
import torch
from detector_forms import KINDS_AND_FORMS, NARROW_FPN, detector_config, narrow_detector
from helpers import objects, randomise
from torch import nn

from detbackbones import InputError, build_backbone, build_detector, build_neck
from detbackbones.detectors.rcnn import FasterRCNN
from detbackbones.layers.mask_crops import MaskCrops
from detbackbones.registry import PROPOSAL_GENERATORS, ROI_HEADS, build

RCNN_KINDS_AND_FORMS = [(kind, form) for kind, form in KINDS_AND_FORMS if kind != "retinanet"]


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("form", ["fpn", "c4"])
@torch.no_grad()
def test_zero_proposals(kind, form):
    detector = narrow_detector(kind, form, rpn=dict(post_nms_top_n=(0, 0)))
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 64)]
    for training in (True, False):
        for counts in ((0, 0), (0, 2)):
            targets = [objects(counts[0], 32, 32), objects(counts[1], 32, 64)]
            losses = detector.train(training).losses(images, targets)
            assert all(loss.isfinite() for loss in losses.values())
    assert all(value.isfinite().all() for value in detector.state_dict().values())
    results = detector.eval().predict(images)
    assert [result["boxes"].shape for result in results] == [(0, 4), (0, 4)]
    if kind == "mask_rcnn":
        assert results[1]["masks"].shape == (0, 32, 64)


@pytest.mark.parametrize("form", ["fpn", "c4"])
@torch.no_grad()
def test_packed_masks_give_the_losses_of_dense_masks(form):
    detector = narrow_detector("mask_rcnn", form).eval()
    images, targets = [torch.rand(3, 64, 96), torch.rand(3, 70, 50)], [objects(3, 64, 96), objects(2, 70, 50)]
    packed = [dict(t, masks=MaskCrops.pack(t["masks"].numpy(), t["masks"].shape[1:])) for t in targets]
    losses = []
    for given in (targets, packed):
        torch.manual_seed(1)  # both sample the same anchors and RoIs
        losses.append(detector.losses(images, given))
    assert losses[0]["loss_mask"] > 0
    assert losses[0] == losses[1]


def test_built_parts_equal_configs():
    cfg = detector_config("faster_rcnn", "fpn")
    from_config = randomise(build_detector(cfg)).eval()
    backbone = build_backbone(cfg["backbone"], norm="batch")
    neck = build_neck(cfg["neck"], backbone.feature_specs)
    rpn = build(PROPOSAL_GENERATORS, cfg["rpn"], feature_specs=neck.feature_specs)
    roi_heads = build(ROI_HEADS, cfg["roi_heads"], feature_specs=from_config.roi_specs, num_classes=3)
    from_parts = FasterRCNN(backbone, neck, 3, rpn=rpn, roi_heads=roi_heads).eval()
    assert from_parts.backbone is backbone
    assert from_parts.rpn is rpn
    assert from_parts.roi_heads is roi_heads
    from_parts.load_state_dict(from_config.state_dict())
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (actual,), (expected,) = from_parts.predict([image]), from_config.predict([image])
    assert len(expected["boxes"]) > 0
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


class WholeImageProposals(nn.Module):
    """A proposal generator that proposes the whole image and has no loss."""

    def forward(self, images, features, targets=None):
        device = images.tensors.device
        return [torch.tensor([[0.0, 0, w, h]], device=device) for h, w in images.image_sizes], {}


def test_a_proposal_generator_of_ones_own():
    detector = build_detector(detector_config("faster_rcnn", "fpn") | dict(rpn=WholeImageProposals()))
    losses = detector.train()([torch.rand(3, 64, 64)], [objects(2, 64, 64)])
    assert losses.keys() == {"loss_classifier", "loss_box_reg"}


def test_rois_are_pooled_from_the_backbones_levels():
    """The level that the neck adds on top, P6, serves the RPN alone (FPN paper, section 4.2)."""
    detector = narrow_detector("faster_rcnn", "fpn")
    assert [spec.name for spec in detector.neck.feature_specs] == ["p2", "p3", "p4", "p5", "p6"]
    assert [spec.name for spec in detector.roi_specs] == ["p2", "p3", "p4", "p5"]


def test_roi_features_select_levels():
    detector = narrow_detector("faster_rcnn", "fpn", roi_features=("p5", "p3"))
    assert [spec.name for spec in detector.roi_specs] == ["p3", "p5"]


@pytest.mark.parametrize("suffix,deepest", [("", 32), ("_dc5", 16), ("_dilated", 8)])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("kind,form", RCNN_KINDS_AND_FORMS)
def test_anchors_step_by_the_strides_of_the_backbone(kind, form, backbone, suffix, deepest):
    with torch.device("meta"):
        detector = narrow_detector(kind, form, backbone=backbone + suffix)
    strides = [spec.stride for spec in detector.backbone.feature_specs]
    generator = detector.rpn.anchor_generator
    assert strides[-1] == (min(16, deepest) if form == "c4" else deepest)
    assert generator.strides[: len(strides)] == strides
    assert generator.num_anchors_per_location()[0] == (15 if form in ("dc5", "c4") else 3)


def resnet18(kind, **arguments):
    return dict(type=kind, backbone="resnet18", **arguments)


@pytest.mark.parametrize(
    "cfg,message",
    [
        (resnet18("mask_rcn"), "mask_rcn'.*did you mean mask_rcnn"),
        (resnet18("mask_rcnn", neck="fpm"), "fpm'.*did you mean fpn"),
        (resnet18("mask_rcnn", roi_head="standard"), "roi_head'.*did you mean roi_heads"),
        (resnet18("mask_rcnn", rpn="rpm"), "rpm'.*did you mean rpn"),
        (resnet18("mask_rcnn", rpn=dict(type="rpn", nms_tresh=0.5)), "nms_tresh'.*did you mean nms_thresh"),
        (
            resnet18("mask_rcnn", roi_heads=dict(type="standard", scor_thresh=0.1)),
            "'standard'.*'scor_thresh'.*did you mean score_thresh",
        ),
        (resnet18("mask_rcnn", roi_heads=dict(type="standard", norm="bach")), "bach'.*did you mean batch"),
        (resnet18("mask_rcnn", roi_heads=dict(type="standard", mask_channels=())), r"mask_channels .* \(\)"),
        (resnet18("faster_rcnn", neck="identity"), r"c2: 64, c3: 128.*use neck='fpn' or a single level"),
        (
            resnet18("faster_rcnn", rpn=dict(type="rpn", anchor_sizes=[[32], [64]])),
            r"anchor_sizes has 2 entries.*5 levels \(p2, p3, p4, p5, p6\)",
        ),
        (resnet18("faster_rcnn", roi_features=("p2", "p7")), "roi_features.*'p7'.*p2, p3, p4, p5, p6"),
    ],
)
def test_parts_that_disagree(cfg, message):
    with pytest.raises(InputError, match=message):
        build_detector(cfg)


def test_mask_rcnn_needs_heads_with_masks():
    cfg = detector_config("mask_rcnn", "fpn")
    specs = build_neck(NARROW_FPN, build_backbone("resnet18").feature_specs).feature_specs
    boxes_only = build(ROI_HEADS, dict(type="standard", box_head_dim=32), feature_specs=specs[:-1], num_classes=3)
    with pytest.raises(InputError, match="mask_rcnn needs RoI heads with masks, got StandardRoIHeads"):
        build_detector(cfg | dict(roi_heads=boxes_only))
    with pytest.raises(InputError, match="got Identity"):
        build_detector(cfg | dict(roi_heads=nn.Identity()))
