"""Every kind of picture from the command line."""

import numpy as np
import pytest
from PIL import Image
from tiny_runs import NARROW, words

from detbackbones.tools.draw import KINDS, main
from detbackbones.tools.train_coco import main as train


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: None)
        folder = tmp_path_factory.mktemp("draw") / "run"
        assert train([f"data_root={shapes}", *words(NARROW), "max_iters=1", f"work_dir={folder}"]) == 0
    return folder


@pytest.fixture
def image(shapes):
    return str(next((shapes / "images").iterdir()))


def drawn(path, *arguments):
    """Draw, and return the pixels."""
    assert main([*map(str, arguments), f"out={path}"]) == 0
    return np.array(Image.open(path).convert("RGB")).astype(int)


def sources(run, image, shapes):
    """Arguments per kind."""
    return {
        "data": ["mask_rcnn_resnet18_fpn_short_shapes", f"data_root={shapes}", "count=3"],
        "errors": [run, "count=2"],
        **{kind: [run] for kind in ("curves", "pr", "confusion", "calibration")},
        "features": [image, "backbone=resnet18", "neck=fpn", "features=('c1','c5')"],
        "levels": [image, "backbone=resnet18_dilated"],
        "field": [image, "backbone=resnet18_dilated", "level=c3"],
        "anchors": [image, "config=retinanet_resnet50_dilated_fpn_1x_coco", "weights=none", "short_side=64"],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(run, image, shapes, here, kind):
    pixels = drawn("a.png", kind, *sources(run, image, shapes)[kind])
    assert pixels.std() > 5
    assert 300 < pixels.shape[1] < 3000


def test_the_sheet_of_samples_depends_on_seed_and_config(shapes, here):
    arguments = ["data", "mask_rcnn_resnet18_fpn_short_shapes", f"data_root={shapes}", "count=2"]
    first, again = drawn("a.png", *arguments), drawn("b.png", *arguments)
    assert np.array_equal(first, again)
    other = drawn("c.png", *arguments, "sample_seed=1")
    assert first.shape != other.shape or not np.array_equal(first, other)
    transforms = "transforms=[{'type':'RandomGrayscale','p':1.0}]"
    grey = drawn("d.png", *arguments, transforms)
    assert coloured(grey) < 0.5 * coloured(first)


def coloured(pixels):
    return (pixels.max(-1) - pixels.min(-1) > 20).mean()


def test_a_dilated_backbone_is_drawn_beside_its_undilated_form(image, here, capsys):
    assert main(["field", image, "backbone=resnet18_dc5"]) == 0
    printed = capsys.readouterr().out
    assert "undilated: c5, stride 32" in printed and "\ndilated: c5, stride 16, dilation 2" in printed
    one = drawn("one.png", "field", image, "backbone=resnet18")
    assert Image.open("field.png").width == pytest.approx(2 * one.shape[1], abs=2)


def test_a_run_gives_its_backbone_and_neck(run, image, here, capsys):
    drawn("a.png", "features", image, f"weights={run}", "neck=true")
    assert "random weights" not in capsys.readouterr().out
    drawn("b.png", "anchors", image, f"config={run}")


def test_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"    {kind} " in printed for kind in KINDS)
    for kind in KINDS:
        assert main([kind, "--help"]) == 0
        printed = capsys.readouterr().out
        assert all(f"    {name} = " in printed for name in KINDS[kind].keys.model_fields)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["feature", "a.jpg"], "did you mean features"),
        (["features"], "needs one IMAGE"),
        (["features", "none.jpg"], "none.jpg"),
        (["field", "IMAGE", "level=c9"], "c9"),
        (["field", "IMAGE", "x=2"], "x"),
        (["field", "IMAGE", "colour=red"], "colour"),
        (["features", "IMAGE", "out=a.jpg"], "PNG"),
        (["features", "IMAGE", "out=none/a.png"], "does not exist"),
        (["errors", "RUN", "images=best"], "best"),
        (["errors", "RUN", "kind=box"], "one of 'bbox', 'segm'"),
        (["errors", "RUN", "score=7"], "score"),
        (["curves", "none"], "not a folder"),
        (["data", "mask_rcnn_resnet18_fpn_short_shape"], "mask_rcnn_resnet18_fpn_short_shapes"),
        (["data", "mask_rcnn_resnet18_fpn_short_shapes", "flop=1"], "flip"),
        (["anchors", "IMAGE", "config=nothing"], "nothing"),
    ],
)
def test_wrong_input_is_one_line(run, image, here, capsys, arguments, message):
    places = {"IMAGE": image, "RUN": str(run)}
    assert main([places.get(word, word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(here.iterdir())
