"""Against the installed SAHI."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_error
from sahi.predict import get_prediction, get_sliced_prediction
from saved_runs import FORMS, save_run

from detbackbones.engine.predictor import Predictor
from detbackbones.integrations.sahi import DetBackbonesDetectionModel

METADATA = {"category_ids": [3, 7], "category_names": ["cat", "dog"]}
MASKS = dict(
    type="mask_rcnn",
    neck=dict(type="fpn", out_channels=8),
    roi_heads=dict(
        type="standard", box_head_dim=8, mask_channels=(8,), mask_dim=8, score_thresh=0.0, detections_per_img=8
    ),
)


def save_small_run(folder: Path, form: str) -> str:
    """Save a run that does not enlarge images to 800 px."""
    save_run(folder, form, METADATA)
    content = torch.load(folder / "last.pt", weights_only=True)
    content["config"]["short_side"] = 64
    torch.save(content, folder / "last.pt")
    return str(folder)


@pytest.fixture
def mask_run(tmp_path, monkeypatch) -> str:
    monkeypatch.setitem(FORMS, "masks", MASKS)
    return save_small_run(tmp_path / "run", "masks")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)


def test_a_whole_image_gives_the_detections_of_the_predictor(mask_run, picture):
    model = DetBackbonesDetectionModel(mask_run, device="cpu", confidence_threshold=0.0)
    expected = Predictor(mask_run, device="cpu")(picture)
    found = get_prediction(picture, model).object_prediction_list
    assert len(found) == len(expected) > 3 and model.has_mask
    assert [one.score.value for one in found] == expected.scores.tolist()
    assert [one.category.name for one in found] == expected.class_names
    assert {one.category.id for one in found} <= {3, 7}
    masks = expected.masks.numpy()
    compared = 0
    for one, box, mask in zip(found, expected.boxes.tolist(), masks):
        if one.mask is None:  # fewer than three points
            assert one.bbox.to_xyxy() == pytest.approx(box)
        elif mask.sum() > 50:
            filled = one.mask.bool_mask
            assert (filled & mask).sum() / (filled | mask).sum() > 0.7
            compared += 1
    assert compared


def test_slices_are_mapped_to_the_image(mask_run, picture):
    """Every detection in the last slice, moved by its corner, is among the detections of the image."""
    model = DetBackbonesDetectionModel(mask_run, device="cpu", confidence_threshold=0.0)
    sizes = dict(slice_height=64, slice_width=64, overlap_height_ratio=0.2, overlap_width_ratio=0.2)
    options = dict(perform_standard_pred=False, postprocess_type="NMS", postprocess_match_metric="IOU", verbose=0)
    options["postprocess_match_threshold"] = 1.1  # keeps every detection
    found = get_sliced_prediction(picture, model, **sizes, **options).object_prediction_list
    y, x = 80 - 64, 100 - 64
    tile = get_prediction(picture[y:, x:], model).object_prediction_list
    assert tile
    boxes = torch.tensor([one.bbox.to_xyxy() for one in found])
    for one in tile:
        moved = torch.tensor(one.bbox.to_xyxy()) + torch.tensor([x, y, x, y])
        assert (boxes - moved).abs().amax(1).min() < 1e-3
    batched = get_sliced_prediction(picture, model, batch_size=4, **sizes, **options).object_prediction_list
    assert [one.score.value for one in batched] == [one.score.value for one in found]


def test_categories_and_thresholds(tmp_path, picture):
    predictor = Predictor(save_small_run(tmp_path / "run", "fpn"), device="cpu", score_threshold=0.0)
    scores = predictor(picture).scores
    threshold = scores[len(scores) // 2].item()
    model = DetBackbonesDetectionModel(
        model=predictor,
        category_mapping={"3": "tiger"},
        confidence_threshold=threshold,
        category_remapping={"3": 1, "7": 2},
    )
    found = get_prediction(picture, model).object_prediction_list
    assert len(found) == (scores >= threshold).sum()
    assert {(one.category.id, one.category.name) for one in found} <= {(1, "tiger"), (2, "dog")}
    assert (model.num_categories, model.category_names, model.has_mask) == (2, ["tiger", "dog"], False)


def test_what_cannot_be_honoured(tmp_path):
    with input_error("image_size=640"):
        DetBackbonesDetectionModel("run", image_size=640)
    with input_error("mask_threshold=0.3"):
        DetBackbonesDetectionModel("run", mask_threshold=0.3)
    with input_error("model_path"):
        DetBackbonesDetectionModel()
    with input_error(tmp_path.name):
        DetBackbonesDetectionModel(str(tmp_path))
