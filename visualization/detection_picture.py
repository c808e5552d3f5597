"""Draw the detections in one image as a picture of its own."""

import io
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .figures import save_figure
from .objects import draw_objects

DPI = 130  # as of the other figures
MIN_SIDE = 640  # pixels of the longer side, below which labels would cover the objects


def draw_detections(
    image: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, masks: Iterable[Tensor], names: Sequence[str]
) -> Image.Image:
    """Return an image with its detections drawn over it.

    Args:
        image: C x H x W, uint8 or float in [0, 1]; the first three channels are shown, or the first as grey.
        boxes: N x 4 xyxy in pixels of the image.
        labels, scores: N.
        masks: H x W bool for each object, or nothing. They may come one at a time.
        names: name per label.

    Returns:
        An RGB picture of the size of the image. Small ones are enlarged by a whole number, so that the longer side has
        at least 640 pixels.
    """
    height, width = image.shape[-2:]
    factor = -(-MIN_SIDE // max(height, width))
    size = (width * factor, height * factor)
    pixels = (image * 255).round().byte() if image.is_floating_point() else image
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    draw_objects(axis, pixels, {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}, names)
    axis.set_aspect("auto")
    file = io.BytesIO()
    save_figure(figure, file)
    picture = Image.open(file).convert("RGB")
    return picture if picture.size == size else picture.resize(size)
