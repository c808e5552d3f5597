"""Draw detections beside the ground truth, each coloured by its verdict: true, false, duplicate or missed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from ..errors import shorten
from .figures import FONT_SIZE, make_grid, save_figure
from .objects import NAME_LENGTH, draw_objects

STYLES: dict[
    str, tuple[str, Any, str]
] = {  # verdict -> colour (Okabe and Ito's), line style, meaning; `evaluation.verdicts` has the words
    "true": ("#009E73", "-", "true"),
    "false": ("#D55E00", "-", "false"),
    "duplicate": ("#F0E442", "--", "duplicate"),
    "missed": ("#56B4E9", "--", "missed object"),
    "ignored": ("#AAAAAA", ":", "ignored (crowd)"),
}
PANEL_WIDTH = 2.6  # inches
MAX_ASPECT_RATIO = 2.0  # of a panel; an image keeps its own
MAX_LABELLED = 12  # objects in a panel that are all labelled; of more, those with an error are


@dataclass(frozen=True)
class JudgedSample:
    """An image with its objects, its detections and the verdicts on both.

    Attributes:
        name: of the image.
        image: C x H x W uint8.
        objects, detections: "boxes" N x 4 xyxy, "labels" N, and perhaps "masks" N x H x W bool, in pixels of the image;
            detections have "scores" N.
        object_verdicts, detection_verdicts: a word of `STYLES` for each.
    """

    name: str
    image: Tensor
    objects: Mapping[str, Any]
    detections: Mapping[str, Any]
    object_verdicts: Sequence[str]
    detection_verdicts: Sequence[str]


def save_judged_samples(
    target: Path | BinaryIO,
    samples: Sequence[JudgedSample],
    names: Sequence[str],
    min_score: float,
    columns: int = 2,
    format: str = "png",
    has_legend: bool = True,
) -> None:
    """Write a picture with ground truth and detections of every sample side by side, coloured by verdict.

    Args:
        target: the file.
        samples: with the detections that reach `min_score`.
        names: name per label.
        min_score: for the titles.
        columns: samples per row.
        format: "png" or "jpeg".
        has_legend: whether it explains the colours.
    """
    columns = min(columns, len(samples))
    aspect = median(sample.image.shape[-2] / sample.image.shape[-1] for sample in samples)
    height = PANEL_WIDTH * min(max(aspect, 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO) + 0.25
    figure, axes = make_grid(-(-len(samples) // columns), 2 * columns, PANEL_WIDTH, height)
    for (left, right), sample in zip(axes.reshape(-1, 2), samples):
        missed = Counter(sample.object_verdicts)["missed"]
        title = f"{shorten(sample.name, NAME_LENGTH)}: {_count(len(sample.object_verdicts), 'object')}, {missed} missed"
        _draw(left, sample.image, sample.objects, sample.object_verdicts, names, title)
        counts = Counter(sample.detection_verdicts)
        found = ", ".join(f"{counts[verdict]} {verdict}" for verdict in STYLES if counts[verdict]) or "none"
        _draw(
            right,
            sample.image,
            sample.detections,
            sample.detection_verdicts,
            names,
            f"detections: {found} (score ≥ {min_score:.2g})",
        )
    if not has_legend:
        return save_figure(figure, target, format)
    shown = {verdict for sample in samples for verdict in (*sample.object_verdicts, *sample.detection_verdicts)}
    _add_legend(figure, [verdict for verdict in STYLES if verdict in shown or verdict != "ignored"])
    save_figure(figure, target, format)


def _draw(
    axis: Any, image: Tensor, objects: Mapping[str, Any], verdicts: Sequence[str], names: Sequence[str], title: str
) -> None:
    draw_objects(
        axis,
        image,
        objects,
        names,
        title,
        colours=[STYLES[verdict][0] for verdict in verdicts],
        styles=[STYLES[verdict][1] for verdict in verdicts],
        is_labelled=[len(verdicts) <= MAX_LABELLED or verdict != "true" for verdict in verdicts],
        label_below=["scores" in objects and verdict != "true" for verdict in verdicts],
    )


def _add_legend(figure: Figure, verdicts: Sequence[str]) -> None:
    lines = [
        Line2D([], [], color=STYLES[verdict][0], linestyle=STYLES[verdict][1], linewidth=3, label=STYLES[verdict][2])
        for verdict in verdicts
    ]
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=len(lines),
        fontsize=FONT_SIZE + 1,
        frameon=False,
        handlelength=3,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
