import numpy as np
import pytest
import torch
from PIL import Image

from detbackbones.visualization.detections import save_grid


def sample(image_id=0, score=0.9, masks=True):
    objects = {"boxes": torch.tensor([[10.0, 20, 60, 70]]), "labels": torch.tensor([1])}
    if masks:
        objects["masks"] = torch.zeros(1, 80, 100, dtype=torch.bool)
        objects["masks"][0, 20:70, 10:60] = True
    image = torch.full((3, 80, 100), 128, dtype=torch.uint8)
    return image, objects | {"image_id": image_id}, objects | {"scores": torch.tensor([score])}


def picture(tmp_path, samples, names=("cat", "dog"), **options):
    save_grid(tmp_path / "grid.png", samples, names, **options)
    return np.array(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)


def coloured(pixels):
    return (pixels.max(-1) - pixels.min(-1) > 20).mean()


def test_objects_are_drawn_on_both_sides(tmp_path):
    pixels = picture(tmp_path, [sample()], columns=1)
    left, right = np.split(pixels, 2, axis=1)
    assert coloured(left) > 0.1
    assert coloured(right) > 0.1


def test_predictions_of_low_score_are_left_out(tmp_path):
    pixels = picture(tmp_path, [sample(score=0.4)], columns=1)
    assert coloured(np.split(pixels, 2, axis=1)[1]) == 0


def test_boxes_are_drawn_without_masks(tmp_path):
    assert 0 < coloured(picture(tmp_path, [sample(masks=False)])) < coloured(picture(tmp_path, [sample()]))


def test_nothing_is_drawn_without_objects(tmp_path):
    image, truth, predicted = sample()
    truth = {key: value[:0] if isinstance(value, torch.Tensor) else value for key, value in truth.items()}
    predicted = {key: value[:0] for key, value in predicted.items()}
    assert coloured(picture(tmp_path, [(image, truth, predicted)])) == 0


@pytest.mark.parametrize("count,rows", [(1, 1), (3, 1), (4, 2)])
def test_samples_fill_rows(tmp_path, count, rows):
    height = len(picture(tmp_path, [sample()]))
    pixels = picture(tmp_path, [sample(image_id) for image_id in range(count)])
    assert len(pixels) == rows * height


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$_^$", "$", "$\\frac{$", "a\nb", "\ud800", "\x1b[1m", "漢字", "_", ""])
def test_names_are_drawn_as_they_are(tmp_path, name):
    pixels = picture(tmp_path, [sample(image_id=name)], names=[name, name], columns=1)
    assert coloured(pixels) > 0.1


def test_a_long_name_is_shortened(tmp_path):
    shape = picture(tmp_path, [sample()], columns=1).shape
    assert picture(tmp_path, [sample(image_id="i" * 1000)], names=["", "n" * 10_000], columns=1).shape == shape
