import json

import pytest
from PIL import Image

from detbackbones.tools.check_data import main


@pytest.fixture
def dataset(tmp_path):
    """A function that writes three images, two of them with the same pixels, and an annotation file after a change."""
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (60, 40), colour).save(tmp_path / name)
    images = [{"id": i, "file_name": f"{name}.png", "width": 60, "height": 40} for i, name in enumerate("abc")]
    cat = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}
    content = {"images": images, "annotations": [cat], "categories": [{"id": 1, "name": "cat [red]"}]}

    def write(change=lambda content: None):
        change(content)
        (tmp_path / "data.json").write_text(json.dumps(content))
        return [str(tmp_path / "data.json"), str(tmp_path)]

    return write


def test_usable_data_is_summarised(dataset, capsys):
    assert main(dataset()) == 0
    printed = capsys.readouterr().out
    assert "3 images, 2 of them empty, 1 annotations of 1 classes" in printed
    assert "cat [red]" in printed
    assert "the same file 2 times: a.png, b.png" in printed


def test_problems_are_named_and_fail(dataset, capsys):
    assert main(dataset(lambda content: content["annotations"][0].update(bbox=[1, 2, 0, 10]))) == 2
    printed, errors = capsys.readouterr()
    assert "annotation 1 (image 0): bbox has no area" in errors
    assert "3 images" in printed


def test_a_key_that_training_takes_too_accepts_the_problem(dataset):
    words = dataset(lambda content: content["annotations"][0].update(bbox=[1, 2, 0, 10]))
    assert main([*words, "skip_unreadable=true"]) == 2
    assert main([*words, "drop_bad_objects=true"]) == 0


def test_repairs_are_counted_and_do_not_fail(dataset, capsys):
    assert main(dataset(lambda content: content["annotations"][0].pop("area"))) == 0
    assert "derived from mask or box: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,culprit", [(["masks=maybe"], "masks"), (["formt=voc"], "formt"), (["format=x"], "format")]
)
def test_unknown_settings_are_named(dataset, capsys, words, culprit):
    assert main(dataset() + words) == 2
    assert culprit in capsys.readouterr().err
