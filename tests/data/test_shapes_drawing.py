import numpy as np
import pytest

from detbackbones.data.shapes_drawing import SHAPES, draw_image, outline, signed_area


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_fits_into_its_circle(shape):
    corners = outline(shape, np.array([50.0, 40.0]), radius=10, angle=0.2)
    distances = np.linalg.norm(corners - (50, 40), axis=1)
    assert distances.max() == pytest.approx(10, rel=0.01)
    assert abs(signed_area(corners)) < np.pi * 100


def test_the_sign_of_an_area_tells_the_direction():
    square = np.array([[0, 0], [3, 0], [3, 2], [0, 2.0]])
    assert signed_area(square) == 6
    assert signed_area(square[::-1]) == -6


def test_masks_are_disjoint_and_inside_the_image():
    for seed in range(20):
        pixels, objects = draw_image(np.random.default_rng(seed), 64)
        assert pixels.dtype == np.uint8
        assert max(pixels.shape[:2]) <= 64
        assert all(item.mask.shape == pixels.shape[:2] for item in objects)
        assert sum(item.mask.astype(int) for item in objects).max() <= 1 if objects else True
