import io

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from detbackbones.evaluation import verdicts
from detbackbones.visualization.detections import STYLES, JudgedSample, save_judged_samples
from detbackbones.visualization.objects import PALETTE, class_colour, draw_objects


def sample(name="a.jpg", verdict="true", object_verdict="true", masks=True):
    objects = {"boxes": torch.tensor([[10.0, 20, 60, 70]]), "labels": torch.tensor([1])}
    if masks:
        objects["masks"] = torch.zeros(1, 80, 100, dtype=torch.bool)
        objects["masks"][0, 20:70, 10:60] = True
    image = torch.full((3, 80, 100), 128, dtype=torch.uint8)
    return JudgedSample(name, image, objects, objects | {"scores": torch.tensor([0.9])}, [object_verdict], [verdict])


def empty_sample():
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    image = torch.full((3, 80, 100), 128, dtype=torch.uint8)
    return JudgedSample("a.jpg", image, none, none | {"scores": torch.zeros(0)}, [], [])


def picture(samples, names=("cat", "dog"), **options):
    file = io.BytesIO()
    save_judged_samples(file, samples, names, 0.5, **{"has_legend": False, **options})
    return np.array(Image.open(file).convert("RGB")).astype(int)


def coloured(pixels):
    return (pixels.max(-1) - pixels.min(-1) > 20).mean()


def share(pixels, colour):
    """Share of the pixels that have a colour."""
    return (np.abs(pixels - 255 * np.array(to_rgb(colour))).max(-1) < 12).mean()


def test_every_verdict_has_a_style():
    words = {verdicts.TRUE, verdicts.FALSE, verdicts.DUPLICATE, verdicts.MISSED, verdicts.IGNORED}
    assert STYLES.keys() == words
    assert len({colour for colour, *_ in STYLES.values()}) == 5


@pytest.mark.parametrize("verdict", ["true", "false", "duplicate", "ignored"])
@pytest.mark.parametrize("object_verdict", ["true", "missed"])
def test_boxes_have_the_colour_of_their_verdict(verdict, object_verdict):
    pixels = picture([sample(verdict=verdict, object_verdict=object_verdict, masks=False)])
    for half, shown in zip(np.split(pixels, 2, axis=1), (object_verdict, verdict)):
        found = {word: share(half, colour) for word, (colour, *_) in STYLES.items()}
        assert max(found, key=found.get) == shown and found[shown] > 0.003


def test_the_legend_has_all_colours():
    pixels = picture([empty_sample()], has_legend=True)
    assert all(share(pixels, STYLES[word][0]) > 0 for word in ("true", "false", "duplicate", "missed"))
    assert coloured(picture([empty_sample()])) == 0


def test_masks_are_drawn_on_both_sides():
    for half, without in zip(
        *(np.split(picture([sample(masks=masks)]), 2, axis=1) for masks in (True, False)), strict=True
    ):
        assert coloured(half) > coloured(without) + 0.1


@pytest.mark.parametrize("count,rows", [(1, 1), (2, 1), (3, 2)])
def test_samples_fill_rows(count, rows):
    height = len(picture([sample()]))
    assert len(picture([sample()] * count)) == pytest.approx(rows * height, abs=rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$_^$", "$", "$\\frac{$", "a\nb", "\ud800", "\x1b[1m", "漢字", "_", ""])
def test_names_are_drawn_as_they_are(name):
    assert coloured(picture([sample(name)], names=[name, name])) > 0.1


def test_a_long_name_is_shortened():
    shape = picture([sample()]).shape
    assert picture([sample("i" * 1000)], names=["", "n" * 10_000]).shape == shape


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1)])
def test_an_image_of_any_shape_gives_a_picture_of_usual_size(size):
    shown = empty_sample()
    image = torch.zeros((3, *size), dtype=torch.uint8)
    pixels = picture([JudgedSample("", image, shown.objects, shown.detections, [], [])])
    assert max(pixels.shape) < 1500


def test_jpeg():
    file = io.BytesIO()
    save_judged_samples(file, [sample()], ("cat", "dog"), 0.5, format="jpeg")
    assert Image.open(file).format == "JPEG"


def test_neighbouring_classes_have_different_colours():
    assert len({class_colour(label) for label in range(len(PALETTE))}) == len(PALETTE)


@pytest.mark.parametrize("box", [[0.0, 0, 5, 5], [95, 0, 100, 5], [0, 75, 5, 80], [95, 75, 100, 80], [-9, -9, 120, 99]])
@pytest.mark.parametrize("below", [False, True])
def test_labels_stay_in_the_image(box, below):
    """At the borders, a label is moved to where there is room for it."""
    figure = Figure(figsize=(3, 2.4))
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    objects = {"boxes": torch.tensor([box]), "labels": torch.tensor([0])}
    draw_objects(axis, image, objects, ["cat"], label_below=[below])
    canvas.draw()
    [label] = axis.texts
    inside, frame = label.get_window_extent(), axis.get_window_extent()
    assert frame.x0 - 3 <= inside.x0 and inside.x1 <= frame.x1 + 3
    assert frame.y0 - 3 <= inside.y0 and inside.y1 <= frame.y1 + 3
