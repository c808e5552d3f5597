"""Predictor: what it is given, what it returns, and views of an image, with detectors that were not trained."""

import numpy as np
import pytest
import torch
from helpers import input_error
from PIL import Image
from random_detectors import IMAGE, assert_same, trained

from detbackbones import Predictor
from detbackbones.engine.merging import fuse
from detbackbones.layers.fuse import fuse_for_inference


@pytest.fixture(scope="module")
def detector():
    return trained()


@pytest.fixture(scope="module")
def predictor(detector):
    return Predictor(detector)


def as_tensor(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def test_detections_are_those_of_the_detector(detector, predictor):
    detections = predictor(IMAGE)
    with torch.inference_mode():
        (expected,) = fuse_for_inference(detector.model)([as_tensor(IMAGE)])
    for name in ("boxes", "scores", "labels", "masks"):
        assert torch.equal(getattr(detections, name), expected[name])
    assert detections.boxes.dtype == torch.float32
    assert detections.masks.shape == (len(detections), 96, 128)
    assert 0 < detections.masks.float().mean() < 1
    assert detections.class_names == [["cat", "dog"][label] for label in expected["labels"]]


def test_all_forms_of_an_image_give_the_same(predictor, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    expected = predictor(IMAGE)
    for image in (str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(IMAGE), as_tensor(IMAGE)):
        assert_same(predictor(image), expected)
    assert_same(predictor(as_tensor(IMAGE) / 255), expected, tolerance=1e-4)


def test_boxes_and_masks_are_in_pixels_of_the_given_image():
    predictor = Predictor(trained(short_side=48))
    detections = predictor(IMAGE)
    half = Predictor(trained())(np.array(Image.fromarray(IMAGE).resize((64, 48), Image.Resampling.BILINEAR)))
    assert len(detections) > 0
    assert detections.masks.shape[1:] == (96, 128)
    assert half.boxes[:, 2].max() < detections.boxes[:, 2].max()
    assert detections.boxes[:, 2].max() > 100


def test_results_can_be_changed(predictor):
    detections = predictor(IMAGE)
    detections.boxes[:, 0] += 1


def test_a_list_gives_a_list_and_batches_give_the_same(detector, predictor):
    images = [IMAGE, IMAGE[:64], IMAGE[::-1].copy(), IMAGE]
    expected = [predictor(image) for image in images]
    assert len(predictor([])) == 0
    for batch_size in (1, 3):
        found = Predictor(detector, batch_size=batch_size)(images)
        for detections, single in zip(found, expected, strict=True):
            assert_same(detections, single, tolerance=1e-4)


def test_grey_16_bit_and_four_channel_images(predictor, tmp_path):
    grey = IMAGE[..., 0]
    assert_same(predictor(grey), predictor(np.repeat(grey[..., None], 3, 2)))
    deep = grey.astype(np.uint16) * 257
    assert_same(predictor(deep), predictor(grey))
    four = Predictor(trained(in_channels=4))
    array = np.concatenate([IMAGE, IMAGE[..., :1]], 2)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert_same(four(array), four(tmp_path / "a.png"))
    with input_error("2 channel", "4"):
        four(IMAGE[..., :2])


def test_the_range_of_the_training_images_is_used(detector):
    limited = Predictor(trained(metadata={"image_range": [0.0, 510.0]}))
    halved = (IMAGE.astype(np.float32) / 2 + 0.5).astype(np.uint8)
    assert_same(limited(IMAGE), Predictor(detector)(halved))


def test_score_threshold_and_classes(detector, predictor):
    everything = predictor(IMAGE)
    score = everything.scores.median().item()
    assert_same(Predictor(detector, score_threshold=score)(IMAGE), everything.filter(score))
    assert_same(Predictor(detector, classes=["dog"])(IMAGE), everything.filter(classes=["dog"]))
    assert set(everything.filter(classes=["dog"]).class_names) == {"dog"}
    strict = trained()
    strict.model.roi_heads.score_thresh = 0.4
    assert Predictor(strict)(IMAGE).scores.min() >= 0.4
    assert_same(Predictor(strict, score_threshold=0.2)(IMAGE), everything)
    with input_error("horse", "cat"):
        Predictor(detector, classes=["horse"])
    with input_error("horse", "dog"):
        everything.filter(classes=["horse"])


def test_a_mirrored_view_is_mapped_back(detector, predictor):
    mirrored = predictor(IMAGE[:, ::-1].copy())
    views = []
    for detections, sign in ((predictor(IMAGE), 1), (mirrored, -1)):
        boxes = detections.boxes.clone()
        if sign < 0:
            boxes[:, [0, 2]] = 128 - boxes[:, [2, 0]]
        views.append({"boxes": boxes, "scores": detections.scores, "labels": detections.labels})
    expected = fuse(views)
    found = Predictor(detector, tta=[1.0])(IMAGE)
    torch.testing.assert_close(found.boxes, expected["boxes"])
    torch.testing.assert_close(found.scores, expected["scores"])


def test_scales_of_test_time_augmentation(detector):
    augmented = Predictor(detector, tta=True)
    sizes = {view.size for view in augmented._views(as_tensor(IMAGE), detector)}
    assert sizes == {(77, 102), (96, 128), (115, 154)}
    detections = augmented(IMAGE)
    assert len(detections) > 0
    assert detections.masks.shape[1:] == (96, 128)
    with input_error("tta"):
        Predictor(detector, tta=[0.0])


def test_an_ensemble_of_equal_models_is_the_model(detector, predictor):
    found = Predictor([detector, detector])(IMAGE)
    expected = predictor(IMAGE)
    once = fuse([{"boxes": expected.boxes, "scores": expected.scores, "labels": expected.labels}] * 2)
    torch.testing.assert_close(found.boxes, once["boxes"])
    torch.testing.assert_close(found.scores, once["scores"])


def test_classes_of_an_ensemble_are_matched_by_name(detector, predictor):
    swapped = trained(metadata={"category_ids": [3, 7], "category_names": ["dog", "cat"]})
    both = Predictor([detector, swapped], tta=False)
    assert both.names == ["cat", "dog"]
    only = Predictor([swapped])(IMAGE)
    found = both(IMAGE)
    counts = {name: only.class_names.count(name) + predictor(IMAGE).class_names.count(name) for name in ("cat", "dog")}
    assert 0 < len(found) <= sum(counts.values())
    assert (found.scores <= 0.5 + 1e-6).all()  # the two models never agree on a class
    with input_error("horse", "dog"):
        Predictor([detector, trained(metadata={"category_names": ["cat", "horse"]})])
    with input_error("masks"):
        Predictor([detector, trained("faster_rcnn")])


def test_rows_that_do_not_stand_for_a_class_are_left_out(predictor):
    rows = trained(metadata={"category_ids": [0, 3], "category_names": ["N/A", "dog"], "unused_labels": [0]})
    only = Predictor(rows)
    assert (only.names, only.category_ids) == (["dog"], [3])
    found, expected = only(IMAGE), predictor(IMAGE).filter(classes=["dog"])
    assert found.class_names == expected.class_names != []
    assert torch.equal(found.boxes, expected.boxes)
    assert found.to_coco(1) == expected.to_coco(1)


def test_an_image_that_fits_into_a_tile_is_not_tiled(detector, predictor):
    assert_same(Predictor(detector, tile=(128, 0.2))(IMAGE), predictor(IMAGE))


def test_tiles_get_the_scale_of_the_training_images():
    detector = trained(metadata={"image_size": [200, 400]}, short_side=100)
    views = Predictor(detector, tile=(64, 0.25))._views(as_tensor(IMAGE), detector)
    assert {view.size for view in views} == {(32, 32)}
    assert len(views) == 2 * 3
    assert {view.limit_factor for view in views} == {1.0}
    views = Predictor(detector, tile=(64, 0.25), tile_scale=2.0, tile_whole=True)._views(as_tensor(IMAGE), detector)
    assert [view.size for view in views].count((128, 128)) == 6
    assert {view.size for view in views} == {(128, 128), (100, 133)}


def test_a_tiled_image(detector):
    image = np.tile(IMAGE, (3, 3, 1))
    for whole in (False, True):
        detections = Predictor(detector, tile=(160, 0.25), tile_whole=whole)(image)
        assert len(detections) > 20  # more than one tile has
        assert detections.boxes[:, 2].max() > 3 * 128 - 40
        assert detections.masks.shape[1:] == (288, 384)


def test_limits_grow_with_the_tile(detector):
    image = np.tile(IMAGE, (4, 4, 1))
    predictor = Predictor(trained(metadata={"image_size": [96, 128]}), tile=(384, 0.1), score_threshold=0.0)
    few = Predictor(trained(metadata={"image_size": [384, 384]}), tile=(384, 0.1), score_threshold=0.0)
    assert len(predictor(image)) > 1.5 * len(few(image))
    assert predictor._models[0].rpn._post_nms_top_n["testing"] == 20  # as before


@pytest.mark.parametrize(
    "options,words",
    [
        ({"tile": (10, 0.2)}, ["tile", "(1024, 0.2)"]),
        ({"tile": (512, 1.0)}, ["tile", "1.0"]),
        ({"tile": 512}, ["tile", "512"]),
        ({"tile_scale": 0}, ["tile_scale"]),
        ({"batch_size": 0}, ["batch_size"]),
        ({"score_threshold": 2}, ["score_threshold"]),
        ({"device": "gpu"}, ["device", "gpu"]),
    ],
)
def test_options_that_cannot_be_used(detector, options, words):
    with input_error(*words):
        Predictor(detector, **options)


def test_sources_that_cannot_be_used(tmp_path):
    with input_error("got none"):
        Predictor([])
    with input_error("nothing-here"):
        Predictor(tmp_path / "nothing-here")


def test_an_image_that_is_too_large_names_tiles():
    predictor = Predictor(trained(short_side=6000))
    with input_error("tile="):
        predictor(np.zeros((100, 100, 3), np.uint8))
