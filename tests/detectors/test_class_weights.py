"""Class weights in the classification losses."""

import pytest
import torch
import torch.nn.functional as F
from detector_forms import detector_config
from helpers import input_error, objects
from torchvision.ops import sigmoid_focal_loss

from detbackbones import build_detector

WEIGHTS = [0.5, 4.0, 1.5]
KINDS_AND_FORMS = [("faster_rcnn", "fpn"), ("mask_rcnn", "c4"), ("retinanet", "fpn")]


def build_weighted(kind, form, weights):
    """Build a detector with class weights; the same seed gives the same parameters."""
    torch.manual_seed(0)
    cfg = detector_config(kind, form)
    (cfg if kind == "retinanet" else cfg["roi_heads"])["class_weights"] = weights
    return build_detector(cfg).eval()


def losses_of(detector):
    torch.manual_seed(1)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 80)]
    return detector.losses(images, [objects(4, 64, 96) | {"seed": 1}, objects(3, 64, 80) | {"seed": 2}])


@pytest.mark.parametrize("kind,form", KINDS_AND_FORMS)
def test_weights_of_one_change_nothing(kind, form):
    torch.testing.assert_close(
        losses_of(build_weighted(kind, form, [1, 1, 1])), losses_of(build_weighted(kind, form, None))
    )


@pytest.mark.parametrize("kind,form", KINDS_AND_FORMS)
def test_weights_change_the_classification_alone(kind, form):
    weighted, plain = losses_of(build_weighted(kind, form, WEIGHTS)), losses_of(build_weighted(kind, form, None))
    name = "classification" if kind == "retinanet" else "loss_classifier"
    assert abs(weighted.pop(name) / plain.pop(name) - 1) > 0.01
    assert weighted == plain


@pytest.mark.parametrize("form", ["fpn", "c4"])
def test_the_weighted_mean_over_rois(form):
    """The background weighs 1."""
    detector, seen = build_weighted("mask_rcnn", form, WEIGHTS), []
    heads = detector.roi_heads
    heads.box_predictor.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    select = heads.select_training_samples

    def keep_labels(*inputs):
        samples = select(*inputs)
        seen.append(torch.cat(samples[2]))
        return samples

    heads.select_training_samples = keep_labels
    loss = losses_of(detector)["loss_classifier"]
    labels, logits = seen
    assert set(labels.tolist()) == {0, 1, 2, 3}
    weights = torch.tensor([1.0, *WEIGHTS])[labels]
    expected = (weights * F.cross_entropy(logits, labels, reduction="none")).sum() / weights.sum()
    torch.testing.assert_close(loss, expected)


def test_the_weighted_focal_loss_of_foreground_anchors():
    """Of retinanet: background anchors weigh 1, the divisor stays the number of foreground anchors."""
    detector, seen = build_weighted("retinanet", "fpn", WEIGHTS), []
    compute = detector.head.compute_loss

    def keep_inputs(*inputs):
        seen.append(inputs)
        return compute(*inputs)

    detector.head.compute_loss = keep_inputs
    loss = losses_of(detector)["classification"]
    ((targets, outputs, _, matches),) = seen
    per_image = []
    for target, logits, match in zip(targets, outputs["cls_logits"], matches):
        total = 0.0
        for label in (-1, 0, 1, 2):  # -1 is the background
            anchor_labels = torch.where(match >= 0, target["labels"][match.clamp(min=0)], -1)
            chosen = logits[(anchor_labels == label) & (match != -2)]  # -2: ignored
            one_hot = torch.zeros_like(chosen)
            if label >= 0:
                one_hot[:, label] = 1
            total += (1 if label < 0 else WEIGHTS[label]) * sigmoid_focal_loss(chosen, one_hot, reduction="sum")
        per_image.append(total / (match >= 0).sum())
    torch.testing.assert_close(loss, sum(per_image) / 2)


@pytest.mark.parametrize("kind,form", KINDS_AND_FORMS)
def test_weights_are_not_in_the_state_dict(kind, form):
    detector = build_weighted(kind, form, WEIGHTS)
    assert detector.state_dict().keys() == build_weighted(kind, form, None).state_dict().keys()
    assert any(name.endswith("class_weights") for name, _ in detector.named_buffers())


@pytest.mark.parametrize(
    "weights,words",
    [
        ([1, 2], ("class_weights has 2", "3 foreground")),
        ([1, 0, 1], ("class_weights", "greater than 0", "[1, 0, 1]")),
        ([1, float("nan"), 1], ("class_weights", "finite")),
    ],
)
@pytest.mark.parametrize("kind,form", KINDS_AND_FORMS)
def test_weights_that_do_not_fit(kind, form, weights, words):
    with input_error(*words):
        build_weighted(kind, form, weights)
