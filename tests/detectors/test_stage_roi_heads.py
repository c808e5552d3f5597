"""The C4 form: RoI heads that run the backbone's deepest stage on every RoI."""

import copy

import pytest
import torch
from detector_forms import detector_config, narrow_detector
from helpers import maps, objects, relative_error
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads

from detbackbones import InputError, build_backbone, build_detector
from detbackbones.detectors.roi_pooler import RoIPooler
from detbackbones.detectors.stage_roi_heads import StageRoIHeads
from detbackbones.layers.norm import convert_norm
from detbackbones.registry import ROI_HEADS, build

IMAGE_SIZES = [(70, 90), (64, 50)]


class MeanOverCells(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


@pytest.fixture
def heads() -> StageRoIHeads:
    """Heads with masks, whose stage has frozen norms: the number of RoIs of a call does not change its output."""
    return convert_norm(narrow_detector("mask_rcnn", "c4"), "frozen").roi_heads


def torchvision_heads(heads: StageRoIHeads) -> RoIHeads:
    """Return torchvision's RoIHeads on the same weights: the stage is box head (with a mean) and mask head."""
    specs = build_backbone("resnet18", out_features=("c4",)).feature_specs
    return RoIHeads(
        box_roi_pool=RoIPooler(specs, 14),
        box_head=nn.Sequential(heads.stage, MeanOverCells()),
        box_predictor=heads.box_predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=16,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.0,
        nms_thresh=0.5,
        detections_per_img=10,
        mask_roi_pool=RoIPooler(specs, 14),
        mask_head=heads.stage,
        mask_predictor=heads.mask_predictor,
    )


def random_inputs():
    """Features of two images, their proposals and targets, as an R-CNN passes them to its RoI heads."""
    specs = build_backbone("resnet18", out_features=("c4",)).feature_specs
    features = maps(specs, 70, 90, images=2)
    proposals = [objects(20, *size)["boxes"] for size in IMAGE_SIZES]
    targets = [objects(count, *size) for count, size in zip((3, 2), IMAGE_SIZES)]
    for target in targets:
        target["labels"] += 1  # 0 is the background
    return features, proposals, targets


def test_losses_and_gradients_equal_torchvisions(heads):
    features, proposals, targets = random_inputs()
    (feature,) = features.values()
    feature.requires_grad_()
    inputs = [feature, *(p for p in heads.parameters() if p.requires_grad)]
    outputs = []
    for module in (heads.train(), torchvision_heads(heads).train()):
        torch.manual_seed(0)  # both sample the same RoIs
        _, losses = module(features, proposals, IMAGE_SIZES, targets)
        outputs.append((losses, torch.autograd.grad(sum(losses.values()), inputs)))
    (losses, gradients), (expected_losses, expected_gradients) = outputs
    assert losses.keys() == expected_losses.keys() == {"loss_classifier", "loss_box_reg", "loss_mask"}
    for name, loss in losses.items():
        assert loss > 0
        assert relative_error(loss, expected_losses[name]) <= 1e-5
    assert max(map(relative_error, gradients, expected_gradients)) <= 1e-4


@torch.no_grad()
def test_detections_equal_torchvisions(heads):
    features, proposals, _ = random_inputs()
    heads.score_thresh = 0.0
    actual, losses = heads.eval()(features, proposals, IMAGE_SIZES)
    expected, _ = torchvision_heads(heads).eval()(features, proposals, IMAGE_SIZES)
    assert losses == {}
    for a, b in zip(actual, expected, strict=True):
        assert len(b["boxes"]) == 10
        assert torch.equal(a["labels"], b["labels"])
        assert all(relative_error(a[key], b[key]) <= 1e-5 for key in ("boxes", "scores", "masks"))


def test_the_stage_runs_once_in_training(heads):
    calls = []
    heads.stage.register_forward_hook(lambda *_: calls.append(1))
    features, proposals, targets = random_inputs()
    heads.train()(features, proposals, IMAGE_SIZES, targets)
    assert len(calls) == 1


def test_heads_without_masks():
    heads = narrow_detector("faster_rcnn", "c4").roi_heads
    features, proposals, targets = random_inputs()
    _, losses = heads.train()(features, proposals, IMAGE_SIZES, targets)
    assert losses.keys() == {"loss_classifier", "loss_box_reg"}
    detections, _ = heads.eval()(features, proposals, IMAGE_SIZES)
    assert detections[0].keys() == {"boxes", "scores", "labels"}


def test_the_stage_has_one_owner():
    detector = narrow_detector("mask_rcnn", "c4", backbone="resnet50")
    keys = detector.state_dict().keys()
    stage_keys = {key.removeprefix("roi_heads.stage.") for key in keys if key.startswith("roi_heads.stage.")}
    expected = {key.removeprefix("layer4.") for key in build_backbone("resnet50").state_dict() if "layer4." in key}
    assert stage_keys == expected
    assert not [key for key in keys if "layer4" in key]
    assert [spec.name for spec in detector.backbone.feature_specs] == ["c4"]
    assert detector.backbone.size_divisor == 16


def test_a_copy_has_a_stage_of_its_own():
    detector = narrow_detector("mask_rcnn", "c4").eval()
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        for parameter in twin.roi_heads.stage.parameters():
            parameter.zero_()
    assert twin.roi_heads.stage is not detector.roi_heads.stage
    assert all(parameter.any() for parameter in detector.roi_heads.stage.parameters() if parameter.dim() > 1)


def test_a_frozen_stage_stays_frozen_in_the_heads(tmp_path):
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "weights.pth")
    cfg = detector_config("faster_rcnn", "c4")
    cfg["backbone"] |= dict(weights=str(tmp_path / "weights.pth"), norm="batch", freeze=5)
    stage = build_detector(cfg).train().roi_heads.stage
    assert not any(parameter.requires_grad for parameter in stage.parameters())
    assert not any(module.training for module in stage.modules())


def c4_form(out_features=("c4", "c5"), **roi_heads):
    backbone = dict(type="resnet18", out_features=out_features)
    return dict(type="mask_rcnn", backbone=backbone, neck="identity", roi_heads=dict(type="stage", **roi_heads))


@pytest.mark.parametrize(
    "cfg,message",
    [
        (c4_form(("c4", "c5"), stage="c5") | dict(neck="fpn"), "'c5' .* p4 with 256 .* use neck='identity'"),
        (c4_form(("c4",), stage="c5"), "c4, .*'c5'"),
        (c4_form(("c4",)), "stage'.*'stage'"),
        (c4_form(stage="c5", mask_pool_size=8), "mask_pool_size'.*did you mean pool_size"),
    ],
)
def test_configs_that_do_not_fit(cfg, message):
    with pytest.raises(InputError, match=message):
        build_detector(cfg)


def test_a_stage_name_needs_a_detector():
    specs = build_backbone("resnet18", out_features=("c4",)).feature_specs
    with pytest.raises(InputError, match="stage must be a module, got 'c5'"):
        build(ROI_HEADS, dict(type="stage", stage="c5"), feature_specs=specs, num_classes=3)
