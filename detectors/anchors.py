"""Anchor generator that uses the declared stride of each level; anchors are always float32."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ..errors import InputError
from ..specs import FeatureSpec

MAX_CACHED_GRIDS = 8  # 4 MiB each for an image of 800 x 1333


def default_sizes(
    feature_specs: Sequence[FeatureSpec], scale: float, single_levels: Sequence[int], octaves: int = 1
) -> list[list[float]]:
    """Return the anchor sizes of every level, in pixels (square root of the area).

    Args:
        feature_specs: levels that carry anchors.
        scale: size at level 0; a level has the size `scale * 2**level`, whatever its stride.
        single_levels: a single level (C4, DC5) carries the sizes of all these levels on every cell, as in detectron2
            and the papers.
        octaves: sizes per octave; 3 gives 1, 2**(1/3) and 2**(2/3) times the size (RetinaNet, section 4).
    """
    levels_per_map = [single_levels] if len(feature_specs) == 1 else [[spec.level] for spec in feature_specs]
    return [
        [scale * 2 ** (level + octave / octaves) for level in levels for octave in range(octaves)]
        for levels in levels_per_map
    ]


class AnchorGenerator(TorchvisionAnchorGenerator):
    """Anchors of the given sizes and aspect ratios, centred at ((column + offset) * stride, (row + offset) * stride).

    torchvision's own generator divides the padded image by the grid, so P6 of a 1344 px side steps by 61 px and not 64,
    and it takes the dtype of the features, which moves anchors by up to 7 px in bfloat16.

    Args:
        feature_specs: levels that carry anchors, in the order of the feature maps given to `forward`.
        sizes: pixels (square root of the area), one sequence per level, all of one length because one head serves all.
        aspect_ratios: height / width.
        round_anchors: whole pixels for sizes and base anchors, as torchvision's published weights were trained.
        offset: shift of the centres to the right and down, as a share of the stride; 0.5 is the middle of a cell
            (detectron2's ANCHOR_GENERATOR.OFFSET, mmdetection's center_offset).

    Raises:
        InputError: sizes and levels disagree.
    """

    cell_anchors: list[Tensor]

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
        offset: float = 0.0,
    ):
        names = [spec.name for spec in feature_specs]
        if len(sizes) != len(names):
            raise InputError(
                f"anchor_sizes has {len(sizes)} entries, but anchors sit on {len(names)} levels ({', '.join(names)})"
            )
        counts = [len(level_sizes) for level_sizes in sizes]
        if len(set(counts)) != 1 or counts[0] == 0:
            raise InputError(f"anchor_sizes must have the same number of sizes on every level, got {counts}")
        self.round_anchors = round_anchors
        self.strides = [spec.stride for spec in feature_specs]
        self._cache: dict[tuple, Tensor] = {}  # (grid sizes, device) -> anchors, least recently used first
        if round_anchors:
            sizes = [[int(size) for size in level_sizes] for level_sizes in sizes]
        super().__init__(tuple(tuple(level_sizes) for level_sizes in sizes), (tuple(aspect_ratios),) * len(sizes))
        self.cell_anchors = [
            self.generate_anchors(level_sizes, ratios) + offset * stride
            for level_sizes, ratios, stride in zip(self.sizes, self.aspect_ratios, self.strides)
        ]

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (torchvision's signature)
    ) -> Tensor:
        """Return the base anchors around (0, 0): (ratios * sizes) x 4 xyxy, in torchvision's order."""
        ratios = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)[None, :]
        width, height = (1 / ratios * sizes).flatten(), (ratios * sizes).flatten()
        base = torch.stack([-width, -height, width, height], dim=1) / 2
        return base.round() if self.round_anchors else base

    def anchors_per_level(self, feature_maps: Sequence[Tensor]) -> list[int]:
        """Return the number of anchors on each of the maps."""
        per_cell = self.num_anchors_per_location()
        return [feature.shape[-2] * feature.shape[-1] * count for feature, count in zip(feature_maps, per_cell)]

    def level_anchors(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors of each map, (H W A) x 4 float32, in (H, W, A) order."""
        return [
            (grid_shifts(feature, stride)[:, None] + cell_anchors.to(feature.device)).reshape(-1, 4)
            for feature, stride, cell_anchors in zip(feature_maps, self.strides, self.cell_anchors)
        ]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the same anchors for every image: sum(H W A) x 4 xyxy float32, level by level in (H, W, A) order."""
        device = feature_maps[0].device
        grid_sizes = tuple(tuple(feature.shape[-2:]) for feature in feature_maps)
        anchors = self._cache.pop((grid_sizes, device), None)
        if anchors is None:
            with torch.inference_mode(False):  # anchors of an evaluation serve training too
                anchors = torch.cat(self.level_anchors(feature_maps))
        self._cache[grid_sizes, device] = anchors
        if len(self._cache) > MAX_CACHED_GRIDS:
            del self._cache[next(iter(self._cache))]
        return [anchors] * len(image_list.image_sizes)


def grid_shifts(feature: Tensor, stride: int) -> Tensor:
    """Return the position of every cell of a map in pixels, row by row: (H W) x 4, as x, y, x, y."""
    height, width = feature.shape[-2:]
    y = (torch.arange(height, device=feature.device) * stride)[:, None].expand(height, width)
    x = (torch.arange(width, device=feature.device) * stride)[None].expand(height, width)
    return torch.stack([x, y, x, y], dim=-1).reshape(-1, 4).float()
