"""Draw losses, learning rate and metrics of a run over its iterations."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ..errors import shorten
from .curves import NAME_LENGTH
from .figures import FONT_SIZE, LINE_COLOURS, PLAIN, save_figure

NOT_LOSSES = {"iteration", "lr", "seconds", "images_per_second", "data_seconds", "memory_mb"}
MAX_LOSSES, MAX_GROUPS = 10, 10
MAX_METRICS = 9  # in a panel; COCO's first 9 are all without AR by size
ABSENT = -1.0  # COCO's value of a metric without objects
MAX_LABELLED_RATIO = 1e4  # of a logarithmic axis with labels between the powers of ten
SMOOTHING = 25  # a point is the mean over one of so many parts of the curve
Curve = tuple[np.ndarray, np.ndarray]  # iterations, values


def save_learning_curves(target: Path | BinaryIO, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG with a panel for losses, one for the learning rate, and one per group of metrics.

    Training losses are smoothed, and their sum is also drawn as it is; validation losses are dashed in the same colour.
    Metrics whose names have a prefix, such as "bbox/", share a panel. If there are more than 10 losses, 10 such panels
    or 9 metrics in a panel, the first ones of the log are drawn.

    Args:
        target: the PNG file.
        entries: lines of the log. One with "lr" has training losses; others have metrics and validation losses, whose
            names start with "val_". Missing values and those that are not finite are left out.
    """
    steps = [entry for entry in entries if "lr" in entry]
    evaluations = [entry for entry in entries if "lr" not in entry]
    losses = {name: curve for name, curve in _curves(steps).items() if name not in NOT_LOSSES}
    others = _curves(evaluations, leave_out=ABSENT)
    validation = {name: others.pop(name) for name in list(others) if name.startswith("val_")}
    panels: list[Callable[[Any], None]] = [
        lambda axis: _draw_losses(axis, losses, validation),
        lambda axis: _draw_learning_rate(axis, _curves(steps).get("lr")),
    ]
    for group in list(dict.fromkeys(name.rpartition("/")[0] for name in others))[:MAX_GROUPS]:
        members = {name: curve for name, curve in others.items() if name.rpartition("/")[0] == group}
        panels.append(lambda axis, group=group, members=members: _draw_metrics(axis, group, members))  # type: ignore
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(10.4, 3.2 * rows), dpi=130, layout="constrained")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    last = max((entry["iteration"] for entry in entries), default=1)
    for axis, draw in zip(axes, panels):
        draw(axis)
        axis.set_xlim(0, 1.02 * last)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
        axis.set_xlabel("iteration", fontsize=FONT_SIZE)
        axis.tick_params(labelsize=FONT_SIZE)
        axis.grid(color="0.9")
    for axis in axes[len(panels) :]:
        axis.remove()
    save_figure(figure, target)


def _curves(entries: Sequence[Mapping[str, Any]], leave_out: float | None = None) -> dict[str, Curve]:
    """Return the finite numbers by name and iteration; of several at one iteration, the last one."""
    points: dict[str, dict[int, float]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value) and value != leave_out:
                points.setdefault(name, {})[entry["iteration"]] = value
    return {
        name: (np.array(sorted(values)), np.array([values[i] for i in sorted(values)], dtype=float))
        for name, values in points.items()
    }


def _draw_losses(axis: Any, losses: Mapping[str, Curve], validation: Mapping[str, Curve]) -> None:
    parts = list(dict.fromkeys([*losses, *map(_training_name, validation)]))
    handles, labels = [], []
    for index, name in enumerate(parts[:MAX_LOSSES]):
        colour = "black" if name == "loss" else LINE_COLOURS[index]
        if name in losses:
            iterations, values = losses[name]
            if name == "loss":
                axis.plot(iterations, values, color=colour, alpha=0.25, linewidth=0.6)
            handles += axis.plot(iterations, _smooth(values), color=colour, linewidth=1.2, **_marker(values))
            labels.append(shorten(name.removeprefix("loss_"), NAME_LENGTH))
        for curve in (curve for val_name, curve in validation.items() if _training_name(val_name) == name):
            axis.plot(*curve, "--", color=colour, linewidth=1.2, marker=".", markersize=4)
    if validation:
        handles.append(Line2D([], [], color="0.5", linestyle="--", marker=".", markersize=4))
        labels.append("validation")
    drawn = np.concatenate([[], *(values for _, values in [*losses.values(), *validation.values()])])
    if len(drawn) and drawn.min() > 0:
        axis.set_yscale("log")
        is_wide = drawn.max() / drawn.min() > MAX_LABELLED_RATIO
        axis.yaxis.set_major_locator(LogLocator(subs=(1,) if is_wide else (1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_title("losses", fontsize=FONT_SIZE + 1)
    _add_legend(axis, handles, labels)


def _draw_learning_rate(axis: Any, curve: Curve | None) -> None:
    axis.set_title("learning rate", fontsize=FONT_SIZE + 1)
    if curve is not None:
        axis.plot(*curve, color="black", linewidth=1.2, **_marker(curve[0]))
        axis.set_ylim(bottom=0)


def _draw_metrics(axis: Any, group: str, curves: Mapping[str, Curve]) -> None:
    handles, labels = [], []
    for index, (name, (iterations, values)) in enumerate(list(curves.items())[:MAX_METRICS]):
        style = {"color": LINE_COLOURS[index], "linewidth": 1.8 if index == 0 else 1}
        handles += axis.plot(iterations, values, marker=".", markersize=4, **style)
        labels.append(f"{shorten(name.rpartition('/')[2], NAME_LENGTH)}  {values[-1]:#.3g}")
    axis.set_title(f"metrics {shorten(group, NAME_LENGTH)}".strip(), fontsize=FONT_SIZE + 1, **PLAIN)
    _add_legend(axis, handles, labels)


def _add_legend(axis: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    if not handles:
        return
    # matplotlib leaves labels that start with "_" out of a legend: the text is set afterwards
    legend = axis.legend(handles, [" "] * len(handles), fontsize=FONT_SIZE, loc="center left", bbox_to_anchor=(1, 0.5))
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, **PLAIN)


def _training_name(validation_name: str) -> str:
    """Return the name of the training loss that is logged as "val_<name>" for validation data."""
    name = validation_name.removeprefix("val_")
    return name if name == "loss" else f"loss_{name}"


def _marker(values: np.ndarray) -> dict[str, Any]:
    """Return the style that makes a curve of one point visible."""
    return {"marker": "."} if len(values) == 1 else {}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean over neighbours on both sides."""
    reach = len(values) // (2 * SMOOTHING)
    window = np.ones(2 * reach + 1)
    padded, counts = (np.pad(array, reach) for array in (values, np.ones(len(values))))
    return np.convolve(padded, window, "valid") / np.convolve(counts, window, "valid")
