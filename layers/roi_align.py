"""RoIAlign from several maps (arXiv:1703.06870, section 3), on the CPU as weighted sums over channels_last maps."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align


def _sample_axis(start: Tensor, size: Tensor, cells: int, ratio: int, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices and bilinear weights that RoIAlign reads along one axis: K x cells x (2 ratio) each.

    The order of the arithmetic is that of torchvision's kernel, so that both read the same positions.

    Args:
        start, size: K, of the RoIs in cells of the feature map.
        cells: output cells per RoI side.
        ratio: samples per output cell and axis.
        limit: K x 1 x 1, side of the feature map.
    """
    cell_size = (size / cells)[:, None, None]
    cell = torch.arange(cells, device=start.device)[:, None]
    sample = torch.arange(ratio, device=start.device) + 0.5
    position = start[:, None, None] + cell * cell_size + sample * cell_size / ratio
    outside = (position < -1) | (position > limit)
    # NaN boxes get a valid index; the NaN stays in the weights
    low = torch.minimum(position.long().clamp(min=0), limit - 1)
    high = torch.minimum(low + 1, limit - 1)
    fraction = (position.clamp(min=0) - low) * (low < high)
    weights = torch.stack([1 - fraction, fraction], -1) * ~outside[..., None] / ratio
    return torch.stack([low, high], -1).flatten(2), weights.flatten(2)


def roi_align_cpu(
    features: Sequence[Tensor],
    scales: Sequence[float],
    rois: Tensor,
    level: Tensor,
    cells: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """Compute `torchvision.ops.roi_align` of every RoI on its own feature map.

    An output cell is a weighted sum of (2 ratio)^2 pixels, and a pixel is a contiguous row of channels in channels_last
    memory, so pooling is an embedding bag: vectorised, on all cores, in both directions. torchvision's CPU kernel reads
    one channel at a time and runs backward on one core. One table of all maps' pixels keeps the RoIs in their order.

    Args:
        features: maps N x C x H x W with equal N and C.
        scales: cells per input pixel, per map.
        rois: K x 5, index of the image and xyxy in input pixels.
        level: K, index of the map that each RoI is pooled from.
        cells: output cells per RoI side (torchvision's `output_size`).
        ratio: samples per output cell and axis, above 0 (torchvision's `sampling_ratio`).
        aligned: whether to shift RoIs by half a cell (torchvision's `aligned`).

    Returns:
        K x C x cells x cells in channels_last memory.
    """

    def per_roi(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=rois.device)[level]

    num_images, channels = features[0].shape[:2]
    height = per_roi([feature.shape[-2] for feature in features])[:, None, None]
    width = per_roi([feature.shape[-1] for feature in features])[:, None, None]
    map_sizes = [num_images * feature.shape[-2] * feature.shape[-1] for feature in features]
    map_start = per_roi(list(accumulate(map_sizes, initial=0))[:-1])[:, None, None]

    x1, y1, x2, y2 = (rois[:, 1:] * per_roi(scales).to(rois.dtype)[:, None] - (0.5 if aligned else 0.0)).unbind(1)
    roi_width, roi_height = x2 - x1, y2 - y1
    if not aligned:
        roi_width, roi_height = roi_width.clamp(min=1), roi_height.clamp(min=1)
    rows, row_weights = _sample_axis(y1, roi_height, cells, ratio, height)
    columns, column_weights = _sample_axis(x1, roi_width, cells, ratio, width)

    # axes: RoI, output row, output column, row sample, column sample
    image = rois[:, 0].long()[:, None, None]
    row_start = map_start + (image * height + rows) * width  # table index of the first pixel of each row
    pixels = row_start[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = torch.cat([feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    pooled = F.embedding_bag(
        pixels.flatten(3).flatten(0, 2),
        table,
        mode="sum",
        per_sample_weights=weights.flatten(3).flatten(0, 2).to(table.dtype),
    )
    return pooled.view(len(rois), cells, cells, channels).permute(0, 3, 1, 2)


def roi_align_levels(
    features: Sequence[Tensor],
    scales: Sequence[float],
    rois: Tensor,
    level: Tensor,
    cells: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """Compute `torchvision.ops.roi_align` of every RoI on its own map, in the fastest way for the device.

    Args and result are those of `roi_align_cpu`; a `ratio` of 0 adapts to the size of the RoI.
    """
    if rois.device.type == "cpu" and ratio > 0:
        return roi_align_cpu(features, scales, rois, level, cells, ratio, aligned)
    rois_per_level = [torch.where(level == index)[0] for index in range(len(features))]
    pooled = torch.cat(
        [
            roi_align(feature, rois[indices], cells, scale, ratio, aligned)
            for feature, indices, scale in zip(features, rois_per_level, scales)
        ]
    )
    return pooled[torch.cat(rois_per_level).argsort()]  # back to the order of the RoIs


@torch.library.custom_op("detbackbones::roi_align_levels", mutates_args=())
def exportable_roi_align(
    features: list[Tensor],
    scales: list[float],
    rois: Tensor,
    level: Tensor,
    cells: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """Compute `roi_align_levels` as one operator, because the number of RoIs per level depends on the data."""
    return roi_align_levels(features, scales, rois, level, cells, ratio, aligned).contiguous()


@exportable_roi_align.register_fake
def _(
    features: list[Tensor],
    scales: list[float],
    rois: Tensor,
    level: Tensor,
    cells: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    return features[0].new_empty((rois.shape[0], features[0].shape[1], cells, cells))
