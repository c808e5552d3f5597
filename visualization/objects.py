"""Draw boxes, masks and labels of objects over their image; every picture of detections uses it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb as colour_to_rgb
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from ..errors import shorten
from .figures import FONT_SIZE, PLAIN, to_rgb

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart, bright first
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#999999")
MASK_OPACITY = 0.45
NAME_LENGTH = 24  # characters


def class_colour(label: int) -> str:
    """Return the colour of a class, as #RRGGBB; classes that are 8 labels apart share one."""
    return PALETTE[label % len(PALETTE)]


def draw_objects(
    axis: Any,
    image: Tensor,
    objects: Mapping[str, Any],
    names: Sequence[str],
    title: str = "",
    colours: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    is_labelled: Sequence[bool] | None = None,
    label_below: Sequence[bool] | None = None,
) -> None:
    """Draw an image with its objects.

    Args:
        axis: a matplotlib axis without a frame.
        image: C x H x W uint8.
        objects: "boxes" N x 4 xyxy in pixels of the image, "labels" N, and perhaps "scores" N and "masks": H x W bool
            per object, which may come one at a time.
        names: name per label.
        title: plain text above the image.
        colours: per object; not given: that of its class.
        styles: matplotlib's line style per object; not given: solid.
        is_labelled: whether name and score of an object are written; not given: of all.
        label_below: whether they stand below the box, so that boxes in one place stay legible; not given: above it.
    """
    labels = objects["labels"].tolist()
    colours = colours if colours is not None else [class_colour(label) for label in labels]
    scores = objects["scores"].tolist() if "scores" in objects else [None] * len(labels)
    axis.imshow(blend_masks(image, objects.get("masks", ()), colours))
    for index, (box, label, score) in enumerate(zip(objects["boxes"].tolist(), labels, scores, strict=True)):
        _draw_box(axis, box, colours[index], "-" if styles is None else styles[index])
        if is_labelled is None or is_labelled[index]:
            text = shorten(names[label], NAME_LENGTH) + ("" if score is None else f" {score:.2f}")
            is_below = label_below is not None and label_below[index]
            _write_label(axis, box, text, colours[index], (image.shape[-2], image.shape[-1]), is_below)
    axis.set_xlim(-0.5, image.shape[-1] - 0.5)
    axis.set_ylim(image.shape[-2] - 0.5, -0.5)
    axis.set_title(title, fontsize=FONT_SIZE, **PLAIN)


def _draw_box(axis: Any, box: Sequence[float], colour: str, style: str) -> None:
    x1, y1, x2, y2 = box
    rectangle = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.3, linestyle=style, edgecolor=colour)
    # visible on a background of the same colour
    rectangle.set_path_effects([withStroke(linewidth=2.4, foreground="black", alpha=0.5)])
    axis.add_patch(rectangle)


def _write_label(
    axis: Any, box: Sequence[float], text: str, colour: str, size: tuple[int, int], is_below: bool
) -> None:
    """Write a label above or below its box, or inside it at the border of the picture, where it still is visible."""
    x1, y1, x2, y2 = box
    is_inside = y2 >= 0.92 * size[0] if is_below else y1 <= 0.08 * size[0]
    is_near_right = x1 > 0.75 * size[1]
    axis.text(
        min(x2, size[1]) if is_near_right else max(x1, 0),
        min(y2, size[0]) if is_below else max(y1, 0),
        text,
        fontsize=FONT_SIZE - 1,
        ha="right" if is_near_right else "left",
        va="top" if is_inside != is_below else "bottom",
        color=_readable_on(colour),
        clip_on=True,
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        **PLAIN,
    )


def _readable_on(colour: str) -> str:
    red, green, blue = colour_to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.4 else "white"


def blend_masks(image: Tensor, masks: Iterable[Tensor], colours: Sequence[str]) -> np.ndarray:
    """Return an image, H x W x 3 uint8, with its masks; only the pixels around each mask are touched.

    Args:
        image: C x H x W uint8.
        masks: H x W bool per object, or nothing.
        colours: of the objects.
    """
    pixels = to_rgb(image).copy()
    for mask, colour in zip(masks, colours):
        columns, rows = mask.any(0).nonzero(), mask.any(1).nonzero()
        if not len(rows):
            continue
        part = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        inside = mask[part].numpy()
        blended = (1 - MASK_OPACITY) * pixels[part][inside] + MASK_OPACITY * 255 * np.array(colour_to_rgb(colour))
        pixels[part][inside] = blended.round()
    return pixels
