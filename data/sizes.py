"""Sizes of resized images."""

MAX_ASPECT_RATIO = 10
MAX_PIXELS = 25_000_000  # of a resized image: ResNet-50 with FPN needs 9 GB for it, with output stride 8 14 GB


def resized_shape(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """Return height and width with the short side at `short_side`, or smaller if the long side would pass its limit.

    Args:
        height, width: size of the image.
        short_side: length of the shorter side; None keeps the size.
        long_side: limit of the longer side. None: ten times `short_side`, so that a narrow strip stays small.
    """
    if short_side is None:
        return height, width
    limit = MAX_ASPECT_RATIO * short_side if long_side is None else long_side
    scale = min(short_side / min(height, width), limit / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
