"""RetinaNet on a pyramid and on a single level."""

import pytest
import torch
from detector_forms import RETINANET_FORMS, narrow_detector
from helpers import objects

from detbackbones import InputError, build_detector


def test_the_pyramid_of_the_paper():
    """P3 to P7, three octaves, nine anchors per cell, 32 px on P3 (Lin et al. 2017, section 4)."""
    with torch.device("meta"):
        detector = build_detector(
            "retinanet",
            backbone=dict(type="resnet50", out_features=("c3", "c4", "c5")),
            neck=dict(type="fpn", extra_levels="conv_on_input"),
        )
    generator = detector.anchor_generator
    assert [spec.name for spec in detector.neck.feature_specs] == ["p3", "p4", "p5", "p6", "p7"]
    assert generator.strides == [8, 16, 32, 64, 128]
    assert generator.num_anchors_per_location() == [9] * 5
    assert [sizes[0] for sizes in generator.sizes] == [32, 64, 128, 256, 512]


@pytest.mark.parametrize("suffix,deepest", [("", 32), ("_dc5", 16), ("_dilated", 8)])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("form", RETINANET_FORMS)
def test_anchors_step_by_the_strides_of_the_backbone(form, backbone, suffix, deepest):
    with torch.device("meta"):
        detector = narrow_detector("retinanet", form, backbone=backbone + suffix)
    strides = [spec.stride for spec in detector.backbone.feature_specs]
    assert strides[-1] == deepest
    assert detector.anchor_generator.strides[: len(strides)] == strides
    assert detector.anchor_generator.num_anchors_per_location()[0] == (45 if form == "single" else 9)


@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou", "diou", "ciou"])
def test_box_losses(box_loss):
    detector = narrow_detector("retinanet", "fpn", box_loss=box_loss).train()
    losses = detector([torch.rand(3, 64, 64)], [objects(3, 64, 64)])
    assert losses["bbox_regression"].isfinite()
    assert losses["bbox_regression"] > 0


def test_norms_in_the_head():
    detector = narrow_detector("retinanet", "fpn", head_norm="group")
    assert any(isinstance(module, torch.nn.GroupNorm) for module in detector.head.modules())


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(neck="identity"), "c2: 64, c3: 128.*use neck='fpn' or a single level"),
        (dict(box_loss="gioo"), "gioo'.*did you mean giou"),
        (dict(head_norm="bach"), "bach'.*did you mean batch"),
        (dict(anchor_sizes=[[3]] * 4 + [[1, 2]]), r"anchor_sizes .*\[1, 1, 1, 1, 2\]"),
        (dict(scor_thresh=0.1), "scor_thresh'.*did you mean score_thresh"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        build_detector("retinanet", backbone="resnet18", **arguments)
