"""Device correctness without a device: a tensor made without its device is on the default device, here "meta"."""

import pytest
import torch
import torchvision
from detector_forms import KINDS_AND_FORMS, keep_all_scores, narrow_detector
from helpers import objects

from detbackbones.layers.mask_crops import MaskCrops

EACH_STRUCTURE = [("faster_rcnn", "fpn"), ("mask_rcnn", "dc5"), ("mask_rcnn", "c4"), ("retinanet", "single")]
all_forms = pytest.mark.parametrize(
    "kind,form",
    [pair if pair in EACH_STRUCTURE else pytest.param(*pair, marks=pytest.mark.slow) for pair in KINDS_AND_FORMS],
)
IMAGES = [(64, 96), (50, 70)]  # sizes


@pytest.fixture(autouse=True)
def nms_on_the_cpu(monkeypatch):
    """torchvision's NMS makes a constant without a device, and moves it to that of the boxes."""
    original = torchvision.ops.boxes._batched_nms_coordinate_trick

    def on_the_cpu(*arguments):
        with torch.device("cpu"):
            return original(*arguments)

    monkeypatch.setattr(torchvision.ops.boxes, "_batched_nms_coordinate_trick", on_the_cpu)


def batch():
    images = [torch.rand(3, *size) for size in IMAGES]
    return images, [objects(count, *size) for count, size in zip((3, 0), IMAGES)]


def assert_losses_and_gradients(detector, images, targets):
    with torch.device("meta"):
        losses, counts = detector.train()(images, targets, with_counts=True)
        sum(losses.values()).backward()
    assert all(value.device.type == "cpu" for value in (*losses.values(), *counts.values()))
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.device.type == "cpu" for p in detector.parameters() if p.requires_grad)


def assert_detections(detector, images):
    with torch.device("meta"), torch.no_grad():
        results = keep_all_scores(detector).eval()(images, output_sizes=[(128, 192), (50, 70)])
    assert all(len(result["boxes"]) for result in results)
    assert all(value.device.type == "cpu" for result in results for value in result.values())


@all_forms
def test_losses_with_a_default_device(kind, form):
    assert_losses_and_gradients(narrow_detector(kind, form), *batch())


@all_forms
def test_detections_with_a_default_device(kind, form):
    assert_detections(narrow_detector(kind, form), batch()[0])


def test_packed_masks_and_seeds_with_a_default_device():
    images, targets = batch()
    packed = [
        dict(t, masks=MaskCrops.pack(t["masks"].numpy(), t["masks"].shape[1:]), seed=index)
        for index, t in enumerate(targets)
    ]
    assert_losses_and_gradients(narrow_detector("mask_rcnn", "fpn"), images, packed)


VARIANTS = {
    "mask_rcnn": dict(
        rpn=dict(round_anchors=True, conv_depth=2),
        roi_heads=dict(sampling_ratio=0, aligned=False, box_head_convs=(8,), norm="batch", class_weights=[1, 2, 3]),
    ),
    "retinanet": dict(head_norm="group", box_loss="giou", class_weights=[1, 2, 3]),
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_options_with_a_default_device(kind):
    images, targets = batch()
    assert_losses_and_gradients(narrow_detector(kind, "fpn", **VARIANTS[kind]), images, targets)
    assert_detections(narrow_detector(kind, "fpn", **VARIANTS[kind]), images)


@pytest.mark.parametrize("box_loss", ["smooth_l1", "diou", "ciou"])
@pytest.mark.slow
def test_box_losses_with_a_default_device(box_loss):
    assert_losses_and_gradients(narrow_detector("retinanet", "fpn", box_loss=box_loss), *batch())


def test_no_proposals_with_a_default_device():
    detector = narrow_detector("mask_rcnn", "fpn", rpn=dict(post_nms_top_n=(0, 0)))
    images, targets = batch()
    assert_losses_and_gradients(detector, images, targets)
    with torch.device("meta"), torch.no_grad():
        (result,) = detector.eval()(images[:1])
    assert {key: (len(value), value.device.type) for key, value in result.items()} == dict.fromkeys(
        ("boxes", "scores", "labels", "masks"), (0, "cpu")
    )


def test_a_fused_detector_with_a_default_device():
    """Its wide convolutions run in Winograd's form on an image of this size."""
    detector = narrow_detector("mask_rcnn", "fpn")
    with torch.device("meta"):
        fused = detector.fuse_for_inference()
    assert_detections(fused, [torch.rand(3, 224, 224), torch.rand(3, 50, 70)])
