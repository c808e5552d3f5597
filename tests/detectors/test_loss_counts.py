"""The loss of a batch is the mean of the losses of its parts, weighted by their counts (seeds, images of one size)."""

import pytest
import torch
from detector_forms import detector_config, narrow_detector
from double_precision import in_double_precision
from helpers import objects, randomise

from detbackbones import build_detector

FORMS = [("faster_rcnn", "fpn"), ("mask_rcnn", "fpn"), ("mask_rcnn", "dc5"), ("mask_rcnn", "c4"), ("retinanet", "fpn")]
all_forms = pytest.mark.parametrize("kind,form", FORMS)


def slow_except(*kinds_and_forms):
    """Return a parametrisation with all forms, of which the default run has these."""
    marks = {pair: () if pair in kinds_and_forms else pytest.mark.slow for pair in FORMS}
    return pytest.mark.parametrize("kind,form", [pytest.param(*pair, marks=mark) for pair, mark in marks.items()])


SIZE = (64, 96)
SPLITS = [(1, 3), (1, 1, 1, 1)]
CLASS_WEIGHTS = [0.5, 4.0, 1.5]


def make_detector(kind, form, monkeypatch, class_weights=None):
    """Build a detector in training mode whose norms do not depend on the batch."""
    if kind == "retinanet":
        cfg = detector_config(kind, form, class_weights=class_weights)
    else:
        small = dict(pool_size=4, batch_size_per_image=8) if form == "c4" else {}  # a whole stage runs on every RoI
        cfg = detector_config(kind, form, roi_heads=small | dict(class_weights=class_weights))
    cfg["backbone"] |= dict(norm="batch_eval")
    return in_double_precision(randomise(build_detector(cfg)).train(), monkeypatch)


def make_batch(numbers_of_objects=(3, 0, 5, 1)):
    images = [torch.rand(3, *SIZE) for _ in numbers_of_objects]
    return images, [objects(count, *SIZE) | {"seed": 7 * index} for index, count in enumerate(numbers_of_objects)]


def step(detector, images, targets, split):
    """Return the losses and gradients of a step over parts of these lengths, each loss weighted by its count."""
    parts, start = [], 0
    for length in split:
        part = slice(start, start + length)
        parts.append(detector(images[part], targets[part], with_counts=True))
        start += length
    totals = {name: sum(counts[name] for _, counts in parts) for name in parts[0][1]}
    losses = {
        name: sum(losses[name] * counts[name] for losses, counts in parts) / total.clamp(min=1e-9)
        for name, total in totals.items()
    }
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    return losses, torch.autograd.grad(sum(losses.values()), parameters, materialize_grads=True)


def assert_parts_add_up(detector, images, targets):
    """Check every split. Counts are float32, which bounds the error."""
    losses, gradients = step(detector, images, targets, (len(images),))
    for split in SPLITS:
        part_losses, part_gradients = step(detector, images, targets, split)
        for name, loss in losses.items():
            assert abs(part_losses[name] - loss) <= 1e-6 * loss, (name, split)
        for actual, expected in zip(part_gradients, gradients, strict=True):
            assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max(), split
    return losses


@all_forms
def test_parts_add_up_to_the_batch(kind, form, monkeypatch):
    losses = assert_parts_add_up(make_detector(kind, form, monkeypatch), *make_batch())
    assert all(loss > 0 for loss in losses.values())


@slow_except(("faster_rcnn", "fpn"), ("retinanet", "fpn"))
def test_parts_add_up_with_class_weights(kind, form, monkeypatch):
    assert_parts_add_up(make_detector(kind, form, monkeypatch, CLASS_WEIGHTS), *make_batch())


@slow_except(("mask_rcnn", "fpn"))
def test_parts_without_objects(kind, form, monkeypatch):
    """Not one foreground RoI: the mask loss and its count are 0."""
    detector, (images, targets) = make_detector(kind, form, monkeypatch), make_batch((0, 0, 0, 0))
    losses = assert_parts_add_up(detector, images, targets)
    _, counts = detector(images, targets, with_counts=True)
    if kind == "mask_rcnn":
        assert losses["loss_mask"] == counts["loss_mask"] == 0
    assert all(count > 0 for name, count in counts.items() if name != "loss_mask")


@pytest.mark.parametrize("form", ["fpn", "single"])
def test_losses_of_retinanet_are_means_over_images(form, monkeypatch):
    """Whatever the number of foreground anchors in each; so its counts are known before the losses."""
    detector, (images, targets) = make_detector("retinanet", form, monkeypatch), make_batch()
    losses, counts = detector(images, targets, with_counts=True)
    assert not detector.counts_vary
    assert all(count == len(images) for count in counts.values())
    for name, loss in losses.items():
        alone = [detector([image], [target])[name] for image, target in zip(images, targets)]
        torch.testing.assert_close(loss, sum(alone) / len(images))


def test_numbers_behind_the_losses_of_mask_rcnn():
    detector, (images, targets) = narrow_detector("mask_rcnn", "fpn").train(), make_batch()
    sampled = []
    detector.roi_heads.mask_head.register_forward_hook(lambda module, inputs, output: sampled.append(len(output)))
    detector.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: sampled.append(len(output)))
    _, counts = detector(images, targets, with_counts=True)
    num_rois, num_foreground = sampled
    assert detector.counts_vary
    assert counts["loss_objectness"] == counts["loss_rpn_box_reg"] == 4 * 256
    assert counts["loss_classifier"] == counts["loss_box_reg"] == num_rois
    assert 0 < counts["loss_mask"] == num_foreground < num_rois


@all_forms
def test_counts_do_not_change_the_losses(kind, form):
    detector, (images, targets) = narrow_detector(kind, form).eval(), make_batch()
    expected = detector.losses(images, targets)
    losses, counts = detector.losses(images, targets, with_counts=True)
    assert type(losses) is type(counts) is dict
    assert losses == expected
    assert losses.keys() == counts.keys()
    assert all(count.dtype == torch.float32 and count.shape == () for count in counts.values())
