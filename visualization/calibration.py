"""Draw reliability diagrams: how often detections of a score are true (https://arxiv.org/abs/1706.04599, figure 1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .figures import FONT_SIZE, PLAIN, save_figure

BAR_COLOUR, COUNT_COLOUR = "#0072B2", "#999999"


def save_reliability_diagrams(target: Path | BinaryIO, panels: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Write a PNG with a reliability diagram per panel, and the number of detections per bin of the score below it.

    Args:
        target: the file.
        panels: per panel its title and `Details.calibration`.
    """
    figure = Figure(figsize=(4.4 * len(panels), 4.4), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=(3, 1))
    for (diagram, histogram), (title, calibration) in zip(axes.T, panels):
        bins = calibration["bins"]
        filled = [entry for entry in bins if entry["count"]]
        width = bins[0]["bin_upper"] - bins[0]["bin_lower"] if bins else 0.1
        diagram.bar(
            [(entry["bin_lower"] + entry["bin_upper"]) / 2 for entry in filled],
            [entry["avg_accuracy"] for entry in filled],
            width=0.92 * width,
            color=BAR_COLOUR,
            label="share of true detections",
        )
        diagram.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1, label="calibrated")
        diagram.plot(
            [entry["avg_confidence"] for entry in filled],
            [entry["avg_accuracy"] for entry in filled],
            marker="o",
            markersize=4,
            linestyle="none",
            color="black",
            label="at the mean score of the bin",
        )
        diagram.set(xlim=(0, 1), ylim=(0, 1))
        diagram.set_ylabel("true at IoU 0.50", fontsize=FONT_SIZE)
        ece = calibration["ece"]
        error = "no detections" if ece is None else f"expected calibration error {100 * ece:.1f} points"
        diagram.set_title(f"{title}: {error}", fontsize=FONT_SIZE + 1, **PLAIN)
        diagram.legend(fontsize=FONT_SIZE, loc="upper left")
        histogram.bar(
            [(entry["bin_lower"] + entry["bin_upper"]) / 2 for entry in filled],
            [entry["count"] for entry in filled],
            width=0.92 * width,
            color=COUNT_COLOUR,
        )
        if filled:
            histogram.set_yscale("log")
            histogram.yaxis.set_major_locator(LogLocator(numticks=5))
            histogram.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            histogram.yaxis.set_minor_formatter(NullFormatter())
            histogram.set_ylim(0.8, 2 * max(entry["count"] for entry in filled))  # one detection is a visible bar
        histogram.set_xlabel("score", fontsize=FONT_SIZE)
        histogram.set_ylabel("detections", fontsize=FONT_SIZE)
        for axis in (diagram, histogram):
            axis.tick_params(labelsize=FONT_SIZE)
            axis.grid(color="0.9")
            axis.set_axisbelow(True)
    save_figure(figure, target)
