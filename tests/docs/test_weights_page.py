"""docs/weights.md: published figures are those of the tables, and names of sources exist."""

import re
from pathlib import Path

import pytest
from torchvision.models import get_model_weights

from detbackbones.errors import InputError
from detbackbones.weights.detector_sources import read_detector
from detbackbones.weights.detectron2_zoo import COCO, ZOO
from detbackbones.weights.mmdet_zoo import ZOO as MMDET_ZOO
from detbackbones.weights.named_sources import find_named
from detbackbones.weights.torchvision_detectors import TORCHVISION_CONFIGS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
# `NAME` stands for a name
SOURCES = sorted(
    set(
        re.findall(
            r"(?<!backbone=)\b(?:torchvision|detectron2|caffe2|mmdet|openmmlab|open-mmlab|timm):(?!NAME)[^\s`,*]+", PAGE
        )
    )
)


def published_rows() -> list[str]:
    """Return the rows of the table of published AP, from the tables that the sources have."""
    rows = [(f"detectron2:{name}", entry.box_ap, entry.mask_ap) for name, entry in ZOO.items() if entry.dataset == COCO]
    rows += [(f"mmdet:{name}", entry.box_ap, entry.mask_ap) for name, entry in MMDET_ZOO.items()]
    for name in TORCHVISION_CONFIGS:
        metrics = get_model_weights(name)["COCO_V1"].meta["_metrics"]["COCO-val2017"]
        rows.append((f"torchvision:{name}", metrics["box_map"], metrics.get("mask_map")))
    return [f"| `checkpoint={name}` | {box:g} | {'' if mask is None else f'{mask:g} '}|" for name, box, mask in rows]


def test_published_figures_are_those_of_the_tables():
    rows = [line for line in PAGE.splitlines() if re.match(r"\| `checkpoint=\w", line)]
    assert rows == published_rows()


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: row.split("`")[1].partition("=")[2])
def test_the_card_has_the_figure_of_the_row(row):
    _, command, box, mask, _ = (cell.strip() for cell in row.split("|"))
    published = read_detector(command.strip("`").removeprefix("checkpoint=")).card.published
    assert set(re.findall(r"\d+\.\d+|\d+", re.sub(r".*:", "", published))) == {box, *filter(None, [mask])}


@pytest.mark.parametrize("source", SOURCES)
def test_named_sources_exist(source):
    try:
        assert read_detector(source).card is not None
    except InputError:
        architecture = "resnet50d" if source == "timm:ra2_in1k" else "resnet50"
        if source == "timm:in12k_ft_in1k":
            architecture = "convnext_tiny"
        assert find_named(source, architecture).card is not None
