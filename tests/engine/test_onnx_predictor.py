"""Parts of the predictor without torch; tests/engine/test_export.py runs all of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from detbackbones.data.image_inputs import read_input
from detbackbones.data.sizes import resized_shape
from detbackbones.engine import onnx_predictor
from detbackbones.layers.mask_ops import PASTES


@pytest.mark.parametrize("short,long", [(None, None), (100, None), (100, 130), (37, 41)])
@pytest.mark.parametrize("size", [(480, 640), (30, 900), (333, 500)])
def test_sizes_are_those_of_the_package(size, short, long):
    assert onnx_predictor.resized_shape(*size, short, long) == resized_shape(*size, short, long)


@pytest.mark.parametrize("style", PASTES)
def test_masks_are_those_of_the_package(style):
    torch.manual_seed(0)
    corner = torch.rand(60, 2) * 150 - 30  # also outside of the image
    boxes = torch.cat([corner, corner + torch.rand(60, 2) ** 3 * 150], dim=1)
    coarse = torch.rand(60, 1, 7, 7)
    probabilities = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")
    expected = PASTES[style](probabilities, boxes, (97, 121)).numpy()
    found = onnx_predictor.PASTES[style](probabilities[:, 0].numpy(), boxes.numpy(), (97, 121))
    assert expected.any(axis=(1, 2)).sum() > 25
    assert (found != expected).mean() < 1e-5


@pytest.mark.parametrize("style", PASTES)
def test_no_masks(style):
    empty = np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32)
    assert onnx_predictor.PASTES[style](*empty, (5, 6)).shape == (0, 5, 6)


def test_labels_without_a_class_are_dropped():
    predictor = object.__new__(onnx_predictor.OnnxPredictor)
    names = {"category_ids": [1, 2, 3], "category_names": ["a", "N/A", "c"]}
    predictor.metadata, predictor.score_threshold = names | {"unused_labels": [1]}, 0.0
    outputs = {"boxes": np.ones((3, 4), np.float32), "scores": np.array([0.9, 0.8, 0.7]), "labels": np.arange(3)}
    found = predictor._result(outputs | {"image_indices": np.zeros(3, int)}, 0, (9, 9), (9, 9))
    assert found["class_names"] == ["a", "c"]


def reader(channels, image_range):
    predictor = object.__new__(onnx_predictor.OnnxPredictor)
    predictor.metadata = {"channels": channels, "image_range": image_range}
    return predictor._read


@pytest.mark.parametrize("channels", [1, 3])
def test_numbers_become_bytes_as_in_training(channels, tmp_path):
    random = np.random.default_rng(0)
    deep = random.integers(0, 6000, (20, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray((deep / 32).astype(np.uint8)).save(tmp_path / "bytes.png")
    floats = random.normal(2000, 1500, (20, 30, channels))
    floats[0, 0, 0] = np.nan
    for image, limits in (("deep.png", (100, 4095)), ("bytes.png", (10, 200)), (floats, (0, 4095.5))):
        image = str(tmp_path / image) if isinstance(image, str) else image
        expected = read_input(image, channels, limits).permute(1, 2, 0).numpy()
        assert np.array_equal(reader(channels, limits)(image), expected)


def test_16_bits_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.full((20, 30), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="expected uint8"):
        reader(3, None)(tmp_path / "deep.png")
