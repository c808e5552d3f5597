import numpy as np
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
