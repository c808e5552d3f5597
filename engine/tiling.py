"""Cut a large image into overlapping tiles, and merge what is found in them.

An inner border of a tile is one that is not a border of the image. Objects there are cut, and those beside it lack
their surroundings. A detection counts in the tile whose inner borders are farthest from its box, and is dropped in the
others. An object that is larger than the overlap is cut in every tile, and its parts are joined.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_area

from .merging import Found, join, resample_masks, select, suppress

Window = tuple[int, int, int, int]  # xyxy in pixels
TOUCH = 0.01  # of a tile's side: a box that comes nearer to an inner border is cut
SLACK = 0.03  # of a tile's side, by which the distances of one object in two tiles may differ
SAME_OBJECT = 0.5  # IoU of two parts in the area that both tiles show; share of a part inside a whole object


def tile_windows(height: int, width: int, size: int, overlap: float) -> list[Window]:
    """Return tiles that cover an image, row by row.

    All are `size` pixels wide and high, or as large as the image. Neighbours share at least `overlap * size` pixels;
    they are spread evenly, so that no tile at the end has more overlap than the others.
    """
    rows, columns = (_starts(side, size, overlap) for side in (height, width))
    return [(x, y, min(x + size, width), min(y + size, height)) for y in rows for x in columns]


def _starts(side: int, size: int, overlap: float) -> list[int]:
    step = max(1, size - round(size * overlap))
    count = 1 + max(0, -(-(side - size) // step))
    return [round(index * (side - size) / (count - 1)) for index in range(count)] if count > 1 else [0]


def merge_tiles(
    tiles: Sequence[Found], windows: Sequence[Window], image_size: tuple[int, int], whole: Found | None = None
) -> Found:
    """Merge the detections of tiles.

    1. A detection is dropped if its box is farther from the inner borders of another tile, by more than 3 % of a tile.
    2. Those that end at an inner border nevertheless are parts of objects larger than the overlap. Parts of one class
       in different tiles are joined if their IoU in the area that both tiles show is at least 0.5: one box around all
       of them, with the best score.
    3. With detections in the whole image, a part or joined object is dropped if such a detection of its class has at
       least half of it inside.
    4. NMS per class over everything.

    Args:
        tiles: detections per tile, in pixels of the image.
        windows: the tiles.
        image_size: height and width of the image.
        whole: detections in the whole image, if it was looked at, too.

    Returns:
        The merged detections, best first.
    """
    found = join(tiles)
    origin = torch.cat([torch.full_like(part["labels"], number) for number, part in enumerate(tiles)])
    frames = torch.tensor(windows, dtype=torch.float32, device=found["boxes"].device)
    side = float((frames[:, 2:] - frames[:, :2]).max())
    distances = border_distances(found["boxes"], frames, image_size)  # N x tiles
    own = distances.gather(1, origin[:, None])[:, 0]
    counts = own >= distances.amax(1) - SLACK * side
    parts = counts & (own < TOUCH * side)
    merged = join_parts(select(found, parts), origin[parts], frames)
    if whole is not None:
        inside = share_inside(merged["boxes"], whole["boxes"]) >= SAME_OBJECT
        inside &= merged["labels"][:, None] == whole["labels"]
        merged = join([select(merged, ~inside.any(1)), whole])
    return suppress(join([select(found, counts & ~parts), merged]))


def border_distances(boxes: Tensor, frames: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return how far each box is from the nearest inner border of each tile: N x tiles, negative if it passes it.

    A box that reaches out of the image does not pass a border there.
    """
    height, width = image_size
    limits = boxes.new_tensor([0, 0, width, height])
    boxes = boxes.maximum(limits[[0, 1, 0, 1]]).minimum(limits[[2, 3, 2, 3]])
    distances = boxes[:, None] - frames
    distances[..., 2:] *= -1
    return torch.where(frames == limits, torch.inf, distances).amin(2)


def join_parts(parts: Found, origin: Tensor, frames: Tensor) -> Found:
    """Join the parts of objects that several tiles cut.

    Args:
        parts: detections that end at an inner border.
        origin: N, the tile of each.
        frames: tiles x 4 xyxy.
    """
    count = len(origin)
    if count < 2:
        return parts
    boxes, labels = parts["boxes"], parts["labels"]
    seen = _clip(boxes[:, None], frames[origin])  # N x N x 4: box i where the tile of box j also shows it
    both = _intersection(seen, seen.transpose(0, 1))
    union = _area(seen) + _area(seen.transpose(0, 1)) - both
    linked = (both > 0) & (both >= SAME_OBJECT * union)
    linked &= (labels[:, None] == labels) & (origin[:, None] != origin)
    linked.fill_diagonal_(True)
    group = torch.arange(count, device=labels.device)
    while True:  # the smallest index of the connected parts
        smallest = torch.where(linked, group, count).amin(1)
        if torch.equal(smallest, group):
            break
        group = smallest
    distinct, member = group.unique(return_inverse=True)
    joined = boxes.new_empty((len(distinct), 4))
    for side, reduce in enumerate(("amin", "amin", "amax", "amax")):
        joined[:, side].scatter_reduce_(0, member, boxes[:, side], reduce, include_self=False)
    scores = boxes.new_zeros(len(distinct)).scatter_reduce_(0, member, parts["scores"], "amax")
    result = {"boxes": joined, "scores": scores, "labels": labels[distinct]}
    if "masks" in parts:
        masks = resample_masks(parts["masks"], boxes, joined[member])
        index = member[:, None, None, None].expand_as(masks)
        empty = masks.new_zeros((len(distinct), *masks.shape[1:]))
        result["masks"] = empty.scatter_reduce_(0, index, masks, "amax")
    return result


def share_inside(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the share of the area of each box that lies in each of the others: N x K."""
    both = _intersection(boxes[:, None].expand(-1, len(others), -1), others.expand(len(boxes), -1, -1))
    return both / box_area(boxes)[:, None].clamp(min=1e-6)


def _clip(boxes: Tensor, frames: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2].maximum(frames[..., :2]), boxes[..., 2:].minimum(frames[..., 2:])], -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _intersection(boxes: Tensor, others: Tensor) -> Tensor:
    return _area(_clip(boxes, others))
