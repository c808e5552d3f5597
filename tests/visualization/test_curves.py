import numpy as np
import pytest
from PIL import Image

from detbackbones.visualization.curves import save_confusion_matrices, save_pr_curves

HOSTILE = ["$_^$", "_hidden", "a\nb\x00", "[red]x[/red]", "猫" * 200, "\ud800", ""]
RECALL = np.linspace(0, 1, 101)


def curves(count):
    return np.sort(np.random.default_rng(0).random((count, 3, 101)))[..., ::-1]


def confusion(count):
    return np.random.default_rng(0).integers(0, 50, (count + 1, count + 1))


def assert_is_drawn(path):
    with Image.open(path) as image:
        assert image.width < 10_000
        assert len(np.unique(np.array(image.convert("L")))) > 20


@pytest.mark.parametrize("count", [1, 7, 11, 1203])
def test_any_number_of_classes(tmp_path, count):
    names = [f"class {i}" for i in range(count)]
    save_pr_curves(tmp_path / "pr.png", [("bbox", RECALL, curves(count), names)])
    save_confusion_matrices(tmp_path / "confusion.png", [("bbox", confusion(count), names)])
    assert_is_drawn(tmp_path / "pr.png")
    assert_is_drawn(tmp_path / "confusion.png")


@pytest.mark.filterwarnings("error")
def test_names_are_plain_text(tmp_path):
    save_pr_curves(tmp_path / "pr.png", [(kind, RECALL, curves(7), HOSTILE) for kind in ("bbox", "segm")])
    save_confusion_matrices(tmp_path / "c.png", [(kind, confusion(7), HOSTILE) for kind in ("bbox", "segm")])
    assert_is_drawn(tmp_path / "pr.png")
    assert_is_drawn(tmp_path / "c.png")


@pytest.mark.filterwarnings("error")
def test_no_class_has_objects(tmp_path):
    names = ["cat", "dog"]
    save_pr_curves(tmp_path / "pr.png", [("bbox", RECALL, np.full((2, 3, 101), -1.0), names)])
    save_confusion_matrices(tmp_path / "confusion.png", [("bbox", np.zeros((3, 3), int), names)])
    assert (tmp_path / "pr.png").exists()
    assert (tmp_path / "confusion.png").exists()


def test_classes_without_objects_have_no_curve(tmp_path):
    with_empty = curves(3)
    with_empty[1] = -1
    save_pr_curves(tmp_path / "a.png", [("bbox", RECALL, with_empty, ["a", "b", "c"])])
    save_pr_curves(tmp_path / "b.png", [("bbox", RECALL, with_empty[[0, 2]], ["a", "c"])])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
