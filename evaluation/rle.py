"""Masks to COCO's run lengths."""

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor


def counts_of_part(mask: np.ndarray, top: int, left: int, height: int) -> list[int]:
    """COCO's uncompressed counts, without the last zeros, of an image that is empty outside of `mask`.

    Runs go down the columns of the image, so a run that reaches the bottom goes on at the top of the next column.

    Args:
        mask: rows x columns, bool or 0 and 1; the part of the image that starts at row `top`, column `left`.
        height: of the image.
    """
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    columns[:, 1:-1] = mask.T
    changes = np.diff(columns, axis=1)
    edges = [np.nonzero(changes == sign) for sign in (1, -1)]
    starts, ends = ((left + column) * height + top + row for column, row in edges)
    joined = starts[1:] == ends[:-1]
    starts, ends = starts[np.append(True, ~joined)[: len(starts)]], ends[np.append(~joined, True)[: len(ends)]]
    positions = np.stack([starts, ends], 1).ravel()
    return np.diff(positions, prepend=0).tolist()


def encode_masks(masks: Tensor) -> list[dict]:
    """N x H x W bool to COCO's compressed RLE with text counts, as JSON wants them.

    Only the smallest rectangle around each mask is looked at closely; most masks fill a small part of their image.
    """
    height, width = masks.shape[-2:]
    rows, columns = masks.any(2).cpu().numpy(), masks.any(1).cpu().numpy()
    entries = []
    for mask, row, column in zip(masks, rows, columns):
        counts = []
        if row.any():
            ys, xs = np.flatnonzero(row), np.flatnonzero(column)
            inside = mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].cpu().numpy()
            counts = counts_of_part(inside, int(ys[0]), int(xs[0]), height)
        entries.append({"size": [height, width], "counts": counts + ([left] if (left := height * width - sum(counts)) else [])})
    compressed = coco_mask.frPyObjects(entries, height, width) if entries else []
    return [{"size": [height, width], "counts": rle["counts"].decode("ascii")} for rle in compressed]
