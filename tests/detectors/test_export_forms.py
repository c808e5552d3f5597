"""Export forms select what the detectors select. tests/engine/test_export.py runs them in ONNX Runtime."""

import pytest
import torch
from detector_forms import KINDS_AND_FORMS, narrow_detector
from helpers import input_error, largest_error, randomise
from torch import nn

from detbackbones.detectors.export_forms import best_per_image, export_form, padded_topk
from detbackbones.layers.fuse import fuse_for_inference

SIZES = [(90, 120), (70, 128), (1, 3)]


def random_images() -> list[torch.Tensor]:
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]


@pytest.mark.parametrize(
    "kind,form,options",
    [(*names, {}) for names in KINDS_AND_FORMS] + [("retinanet", "fpn", {"clip_before_nms": False})],
)
@torch.no_grad()
def test_a_batch_gives_the_detections_of_the_detector(kind, form, options):
    """From the same features, because float noise changes the order of random detections."""
    model = randomise(narrow_detector(kind, form, **options)).eval()
    (model if kind == "retinanet" else model.roi_heads).score_thresh = 0.1
    batch = model.preprocess(random_images())
    features = model.neck(model.backbone(batch.tensors))
    expected = model.head_detections(features, batch)
    boxes, scores, labels, image, *masks = export_form(fuse_for_inference(model, optimize=False)).detect(
        features, torch.tensor(SIZES)
    )
    assert image.tolist() == [index for index, found in enumerate(expected) for _ in found["scores"]]
    assert len(boxes) > 10
    wanted = {name: torch.cat([found[name] for found in expected]) for name in expected[0]}
    wanted["labels"] -= model.label_offset
    ours = by_score(image, scores, labels, boxes)
    theirs = by_score(image, wanted["scores"], wanted["labels"], wanted["boxes"])
    torch.testing.assert_close(scores[ours], wanted["scores"][theirs], atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes[ours], wanted["boxes"][theirs], atol=1e-3, rtol=0)
    assert torch.equal(labels[ours], wanted["labels"][theirs])
    if masks:
        torch.testing.assert_close(masks[0][ours], wanted["masks"][theirs, 0], atol=1e-3, rtol=0)


def by_score(image, scores, labels, boxes) -> list[int]:
    """Return an order of detections in which those of one score, whose order is free, are sorted by label and box."""
    rows = torch.cat([image[:, None], -scores[:, None], labels[:, None], boxes], dim=1).tolist()
    return sorted(range(len(rows)), key=rows.__getitem__)


@torch.no_grad()
def test_images_are_normalised_and_their_padding_ignored(monkeypatch):
    model = narrow_detector("faster_rcnn", "fpn").eval()
    images = random_images()
    batch = model.preprocess(images)
    expected = model.neck(model.backbone(batch.tensors))
    padded = torch.full((3, 3, *batch.tensors.shape[-2:]), 77, dtype=torch.uint8)
    for canvas, image in zip(padded, images):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    form = export_form(fuse_for_inference(model, optimize=False))
    monkeypatch.setattr(form, "detect", lambda features, sizes: features)
    assert largest_error(form(padded, torch.tensor(SIZES)), expected) < 1e-5


def test_heads_of_another_kind_are_refused_by_name():
    class MyHeads(nn.Module):
        pass

    model = narrow_detector("faster_rcnn", "fpn")
    model.roi_heads = MyHeads()
    with input_error("MyHeads", "part=neck"):
        export_form(model)


@pytest.mark.parametrize("method", ["postprocess_detections", "forward"])
def test_a_subclass_that_selects_in_its_own_way_is_refused(method):
    model = narrow_detector("faster_rcnn", "fpn")
    model.roi_heads.__class__ = type("MyHeads", (type(model.roi_heads),), {method: lambda *_: None})
    with input_error("MyHeads", "part=neck"):
        export_form(model)


def test_a_subclass_with_other_features_is_exported():
    model = narrow_detector("faster_rcnn", "fpn")
    model.roi_heads.__class__ = type("MyHeads", (type(model.roi_heads),), {"predict_masks": lambda *_: None})
    export_form(model)


def test_the_best_of_fewer_than_asked_for():
    best, index = padded_topk(torch.tensor([[0.5, 0.9]]), 4)
    assert best.tolist()[0][:2] == pytest.approx([0.9, 0.5])
    assert best.tolist()[0][2:] == [-torch.inf] * 2
    assert index.tolist() == [[1, 0, 0, 0]]


def test_the_best_of_each_image():
    scores, images = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3]), torch.tensor([2, 0, 2, 0, 0])
    image, index = best_per_image(scores, images, 3, 2)
    assert image.tolist() == [0, 0, 2, 2]
    assert index.tolist() == [1, 3, 2, 0]
