import os
import subprocess
import sys

import pytest
from helpers import input_error

from detbackbones.data.formats import FORMATS, read_source, recognise_format

CVAT, VOC = "<annotations/>", "<annotation/>"


@pytest.mark.parametrize(
    "files,path,expected",
    [
        ({"a.json": ""}, "a.json", "coco"),
        ({}, "missing.json", "coco"),  # the reader of COCO files names what is missing
        ({"data.yaml": ""}, "data.yaml", "yolo"),
        ({"data.yml": ""}, "", "yolo"),
        ({"labels/a.txt": ""}, "", "yolo"),
        ({"a.xml": CVAT}, "a.xml", "cvat"),
        ({"annotations.xml": CVAT, "images/a.jpg": ""}, "", "cvat"),
        ({"ImageSets/Main/train.txt": ""}, "ImageSets/Main/train.txt", "voc"),
        ({"ImageSets/Main/train.txt": ""}, "", "voc"),
        ({"Annotations/a.xml": VOC}, "", "voc"),
        ({"Annotations/a.xml": VOC}, "Annotations", "voc"),
    ],
)
def test_recognised_formats(tmp_path, files, path, expected):
    write(tmp_path, files)
    assert recognise_format(tmp_path / path) == expected


@pytest.mark.parametrize(
    "files,path,words",
    [
        ({"data.yaml": ""}, "dota.yaml", ["dota.yaml", "does not exist", "did you mean data.yaml"]),
        ({"a.csv": ""}, "a.csv", ["a.csv", "not recognised", "set format=coco|voc|yolo|cvat|lvis"]),
        ({"a.xml": "<html/>"}, "a.xml", ["a.xml", "not recognised"]),
        ({"a.xml": "<html"}, "a.xml", ["a.xml", "not XML"]),
        ({"a.txt": ""}, "", ["not recognised"]),
        ({}, "x" * 300, ["does not exist"]),
    ],
)
def test_other_paths_are_errors(tmp_path, files, path, words):
    write(tmp_path, files)
    with input_error(*words):
        recognise_format(tmp_path / path)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"coco", "lvis"}))
def test_a_missing_path_is_named(tmp_path, format):
    with input_error("gone", "does not exist"):
        read_source(tmp_path / "gone", None, format, "train")


def test_bccd_is_recognised(bccd):
    assert recognise_format(bccd) == recognise_format(bccd / "Annotations") == "voc"


def test_the_readers_do_not_load_torch():
    code = "import sys, detbackbones.data.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
