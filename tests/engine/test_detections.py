"""Detections: indexing, and what they are converted to."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from random_detectors import IMAGE, assert_same, trained

from detbackbones import Predictor
from detbackbones.engine.detections import Detections


@pytest.fixture(scope="module")
def predictor():
    return Predictor(trained())


def test_indexing(predictor):
    detections = predictor(IMAGE)
    assert_same(detections[1:3], detections[torch.tensor([1, 2])])
    assert len(detections[0]) == 1
    assert detections[-1].rles == detections.rles[-1:]
    assert_same(detections[detections.scores > 0.4], detections.filter(0.4))


def test_coco_entries_are_read_by_pycocotools(predictor, tmp_path):
    detections = predictor(IMAGE)
    entries = json.loads(json.dumps(detections.to_coco(5)))
    truth = COCO()
    categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    truth.dataset = {"images": [{"id": 5, "width": 128, "height": 96}], "annotations": [], "categories": categories}
    truth.createIndex()
    loaded = truth.loadRes(entries)
    assert len(loaded.anns) == len(detections)
    for index, annotation in enumerate(loaded.loadAnns(loaded.getAnnIds())):
        assert truth.cats[annotation["category_id"]]["name"] == detections.class_names[index]
        assert np.array_equal(loaded.annToMask(annotation), detections.masks[index].numpy())
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], detections.boxes[index].numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["mask_rcnn", "faster_rcnn"])
def test_supervision(name):
    supervision = pytest.importorskip("supervision")
    detections = Predictor(trained(name))(IMAGE)
    converted = detections.to_supervision()
    raw = {"boxes": detections.boxes, "scores": detections.scores, "labels": detections.labels}
    expected = supervision.Detections(
        **{"xyxy": raw["boxes"].numpy(), "confidence": raw["scores"].numpy(), "class_id": raw["labels"].numpy()},
        mask=None if detections.masks is None else detections.masks.numpy(),
        data={"class_name": np.array(detections.class_names)},
    )
    assert converted == expected
    assert len(converted[converted.data["class_name"] == "cat"]) == detections.class_names.count("cat")
    annotated = supervision.BoxAnnotator().annotate(IMAGE.copy(), converted)
    assert (annotated != IMAGE).any()
    assert len(detections[:0].to_supervision()) == 0


@pytest.mark.parametrize("name", ["mask_rcnn", "faster_rcnn"])
def test_an_image_without_detections(name):
    detections = Predictor(trained(name), score_threshold=1.0)(IMAGE)
    assert len(detections) == 0
    assert detections.boxes.shape == (0, 4)
    assert detections.to_coco(1) == []
    assert (detections.masks is None) == (name == "faster_rcnn")
    assert detections.plot().size == (640, 480)
    assert repr(detections) == "Detections(0)"


def test_pictures(predictor):
    detections = predictor(IMAGE)
    plain, drawn = (np.asarray(detections.plot(score=score)) for score in (1.0, 0.0))
    assert plain.shape == (480, 640, 3)  # enlarged five times
    enlarged = np.asarray(Image.fromarray(IMAGE).resize((640, 480), Image.Resampling.NEAREST))
    assert np.abs(plain.astype(int) - enlarged).mean() < 3
    assert (drawn != plain).any(2).mean() > 0.05
    assert np.array_equal(np.asarray(detections.plot(IMAGE, score=0.0)), drawn)


def test_masks_are_pasted_one_at_a_time(predictor):
    """300 masks of 4000 x 3000 would need 3.6 GB."""
    shapes = []

    def paste(masks, boxes, size):
        shapes.append(masks.shape)
        return torch.zeros(len(masks), *size, dtype=torch.bool)

    found = {"boxes": torch.rand(5, 4), "scores": torch.rand(5), "labels": torch.zeros(5).long()}
    found["masks"] = torch.rand(5, 1, 28, 28)
    Detections.from_found(found, paste, names=["a"], category_ids=[1], size=(30, 40))
    assert shapes == [(1, 1, 28, 28)] * 5
