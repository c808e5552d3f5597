import numpy as np
import pytest
import torch
from helpers import pyramid
from PIL import Image

from detbackbones.visualization.features import save_feature_maps


def picture(path, features, specs, size=(64, 96)):
    save_feature_maps(path, torch.full((3, *size), 128, dtype=torch.uint8), features, specs)
    return np.array(Image.open(path).convert("RGB")).astype(float)


def test_a_strong_cell_is_bright(tmp_path):
    """The upper left cell is strong, though the mean of its channels is zero."""
    specs = pyramid([16])
    feature = np.full((8, 4, 6), 0.1, np.float32)
    feature[:, 0, 0] = [-5, 5] * 4
    pixels = picture(tmp_path / "a.png", {"p2": feature}, specs).sum(-1)
    panel = pixels[:, pixels.shape[1] // 2 :]
    height, width = panel.shape
    cell = panel[int(0.2 * height) : int(0.28 * height), int(0.05 * width) : int(0.13 * width)]
    assert cell.min() > panel[height // 2, width // 2] + 100
    assert cell.max() < 3 * 255  # not the white beside the map


def test_every_level_has_a_panel(tmp_path):
    specs = pyramid([4, 8, 16, 32, 64, 128])
    features = {s.name: np.ones((2, -(-64 // s.stride), -(-96 // s.stride)), np.float32) for s in specs}
    one_row = picture(tmp_path / "a.png", {"p2": features["p2"]}, specs[:1])
    two_rows = picture(tmp_path / "b.png", features, specs)
    assert two_rows.shape[1] == 3 * one_row.shape[1]
    assert two_rows.shape[0] == 2 * one_row.shape[0]


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3000, 4000), (1, 1)])
def test_pictures_of_any_size_are_small(tmp_path, size):
    specs = pyramid([4])
    feature = np.ones((2, -(-size[0] // 4), -(-size[1] // 4)), np.float32)
    assert max(picture(tmp_path / "a.png", {"p2": feature}, specs, size).shape) < 1200


def test_a_map_with_fewer_cells_than_strides_covers_the_image(tmp_path):
    """Networks without padding round sizes down."""
    pixels = picture(tmp_path / "a.png", {"p2": np.ones((2, 15, 23), np.float32)}, pyramid([4]))
    assert len(pixels)


@pytest.mark.parametrize("name", ["$_^$", "[bold]", "x" * 300])
def test_names_are_drawn_as_they_are(tmp_path, name):
    save_feature_maps(
        tmp_path / "a.png",
        torch.zeros(3, 64, 96, dtype=torch.uint8),
        {name: np.ones((2, 16, 24), np.float32)},
        pyramid([4]),
    )
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_images_of_any_number_of_channels(tmp_path, channels):
    image = torch.zeros(channels, 64, 96, dtype=torch.uint8)
    save_feature_maps(tmp_path / "a.png", image, {"p2": np.ones((2, 16, 24), np.float32)}, pyramid([4]))
    assert (tmp_path / "a.png").exists()
