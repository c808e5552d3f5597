import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from detbackbones.visualization.detection_picture import draw_detections
from detbackbones.visualization.objects import MASK_OPACITY, blend_masks, class_colour


def test_masks_are_blended_in_the_colours_of_their_classes():
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[2, 10:, 20:] = True  # the second one is empty
    colours = [class_colour(label) for label in (4, 0, 1)]
    blended = blend_masks(image, iter(masks), colours)
    expected = np.full((20, 30, 3), 100.0)
    for index in (0, 2):
        colour = 255 * np.array(to_rgb(colours[index]))
        expected[masks[index].numpy()] = (1 - MASK_OPACITY) * 100 + MASK_OPACITY * colour
    np.testing.assert_allclose(blended, expected, atol=0.51)
    assert (image == 100).all()


@pytest.mark.parametrize("size,expected", [((40, 60), (440, 660)), ((640, 480), (640, 480)), ((700, 900), (700, 900))])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_picture_has_the_size_of_the_image_or_is_enlarged(size, expected, channels):
    image = torch.randint(0, 256, (channels, *size), dtype=torch.uint8)
    boxes, labels, scores = torch.tensor([[5.0, 5, 30, 30]]), torch.tensor([0]), torch.tensor([0.7])
    picture = draw_detections(image, boxes, labels, scores, (), ["a"])
    assert picture.mode == "RGB"
    assert picture.size == expected[::-1]


def test_a_float_image_is_drawn_as_the_same_in_bytes():
    image = torch.randint(0, 256, (3, 700, 40), dtype=torch.uint8)
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), (), ["a"])
    drawn, from_floats = (np.asarray(draw_detections(pixels, *nothing)) for pixels in (image, image / 255))
    assert np.array_equal(drawn, from_floats)
    assert np.abs(drawn.astype(int) - image.permute(1, 2, 0).numpy()).mean() < 1
