"""Pictures of features, levels, anchors and receptive fields."""

import io

import numpy as np
import pytest
import torch
from helpers import pyramid
from PIL import Image

from detbackbones.visualization.anchors import AnchorPanel, save_anchors
from detbackbones.visualization.features import principal_components, save_feature_statistics
from detbackbones.visualization.levels import CENTRE, save_levels
from detbackbones.visualization.receptive_field import FieldPanel, save_receptive_fields

IMAGE = torch.full((3, 64, 96), 128, dtype=torch.uint8)


def pixels_of(draw):
    file = io.BytesIO()
    draw(file)
    return np.array(Image.open(file).convert("RGB")).astype(int)


def count(pixels, colour):
    """Number of pixels that have a colour #RRGGBB."""
    expected = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return int((np.abs(pixels - expected).max(-1) < 12).sum())


@pytest.mark.parametrize("shape", [(5, 12, 7), (40, 3, 4)])  # more cells than channels, and fewer
def test_principal_components_are_those_of_the_svd(shape):
    feature = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    feature[0] *= 5
    feature[1] *= 3
    values = feature.reshape(shape[0], -1).astype(float)
    values -= values.mean(1, keepdims=True)
    expected = np.linalg.svd(values, full_matrices=False)[2][:3]
    found = principal_components(feature).reshape(-1, 3).T
    for component, direction in zip(found, expected):
        inside = (component > 0) & (component < 1)  # the percentiles clip the others
        assert abs(np.corrcoef(component[inside], direction[inside])[0, 1]) > 0.9999
        assert component.min() == 0 and component.max() == 1


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 1, 1), (4, 5, 6)])
def test_components_that_do_not_exist_or_vary_are_zero(shape):
    assert np.array_equal(principal_components(np.ones(shape, np.float32)), np.zeros((*shape[1:], 3)))


def test_every_level_has_three_panels():
    specs = pyramid([4, 8, 16])
    maps = {s.name: np.random.default_rng(0).random((2, 64 // s.stride, 96 // s.stride)) for s in specs}
    sizes = []
    for number in (1, 3):
        chosen = dict(list(maps.items())[:number])
        pixels = pixels_of(lambda file, chosen=chosen: save_feature_statistics(file, IMAGE, chosen, specs))
        sizes.append(pixels.shape)
    assert sizes[0][1] * 2 == pytest.approx(sizes[1][1], abs=2)
    assert sizes[0][0] == pytest.approx(sizes[1][0], abs=2)  # 2 rows of one level, 2 of two


def test_the_marked_cell_grows_with_the_stride():
    areas = []
    for stride in (8, 16):
        rows = [("", pyramid([stride]))]
        areas.append(count(pixels_of(lambda file, rows=rows: save_levels(file, IMAGE, rows, (50, 30))), CENTRE))
    assert 3 < areas[1] / areas[0] < 5


def test_rows_of_levels_and_anchors():
    rows = [("undilated", pyramid([8, 16])), ("dilated", pyramid([8, 8]))]
    one, two = (pixels_of(lambda file, n=n: save_levels(file, IMAGE, rows[:n], (50, 30))) for n in (1, 2))
    assert len(two) == pytest.approx(2 * len(one), abs=2)
    panel = AnchorPanel("p3", 8, (48.0, 32.0), np.array([[40.0, 24, 56, 40], [36, 28, 60, 36], [44, 20, 52, 44]]))
    pixels = pixels_of(lambda file: save_anchors(file, IMAGE, [("a", [panel, panel]), ("b", [panel])]))
    assert {count(pixels, colour) > 100 for colour in ("#D55E00", "#0072B2", "#009E73")} == {True}


@pytest.mark.parametrize("theoretical", [None, (-20.0, -20, 70, 70)])
def test_a_strong_pixel_of_the_field_is_bright(theoretical):
    field = np.zeros((64, 96), np.float32)
    field[40:60, 70:90] = 1
    panel = FieldPanel("$x_1$", field, theoretical, (20, 20, 40, 40), (3, 3), 8)
    pixels = pixels_of(lambda file: save_receptive_fields(file, IMAGE, [panel, panel]))
    height, width = pixels.shape[:2]
    corner = pixels[: height // 2, : width // 4].astype(float)
    orange = (pixels[..., 0] > 200) & (pixels[..., 2] < 90)
    assert orange.sum() > 2000 and (corner.mean(-1) < 120).mean() > 0.5


def test_a_field_of_zeros():
    panel = FieldPanel("", np.zeros((64, 96), np.float32), None, (0, 0, 1, 1), (0, 0), 8)
    assert pixels_of(lambda file: save_receptive_fields(file, IMAGE, [panel])).std() > 0
