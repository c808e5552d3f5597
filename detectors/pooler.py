"""RoI features from the level that the FPN paper's rule names, at the declared scale of that level."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, box_area, roi_align

from ..features import FeatureSpec
from ..registry import InputError

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4  # FPN paper, equation 1


class DeclaredRoIPooler(MultiScaleRoIAlign):
    """RoIAlign over levels chosen by `FeatureSpec.level`, with scale 1 / stride.

    Level k = floor(4 + log2(sqrt(area) / 224) + 1e-6), clamped to the levels present; where a level is absent (strides
    4, 16, 32) the next finer one serves. torchvision infers scales from the first batch and counts positions, which
    gives large RoIs all-zero features when a level is skipped.

    Args:
        feature_specs: the levels to pool from.
        output_size: cells a side.
        sampling_ratio: samples a cell side; 0 adapts to the RoI as detectron2 does.
        aligned: half-pixel correct RoIAlign (detectron2, mmdetection); False is torchvision's.
    """

    def __init__(self, feature_specs: Sequence[FeatureSpec], output_size: int, sampling_ratio: int, aligned: bool):
        super().__init__([spec.name for spec in feature_specs], output_size, sampling_ratio)
        levels = [spec.level for spec in feature_specs]
        if levels != sorted(set(levels)):
            raise InputError(f"RoI levels must be different and go from fine to coarse, not {levels}")
        self.levels = levels
        self.scales = [1 / spec.stride for spec in feature_specs]
        self.aligned = aligned

    def level_index(self, boxes: Tensor) -> Tensor:
        """Index into `feature_specs` for each of N x 4 float32 boxes in input pixels."""
        size = box_area(boxes).sqrt()
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE) + 1e-6)
        present = torch.tensor(self.levels, device=boxes.device, dtype=level.dtype)
        level = level.clamp(self.levels[0], self.levels[-1])
        return torch.searchsorted(present, level, right=True) - 1

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """K x C x output_size x output_size for the K boxes of all images; boxes are xyxy in input pixels."""
        maps = [x[name] for name in self.featmap_names]
        images = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        rois = torch.cat([images, torch.cat(boxes)], dim=1).float()
        pool = {"output_size": self.output_size, "sampling_ratio": self.sampling_ratio, "aligned": self.aligned}
        index = self.level_index(rois[:, 1:])
        order, pooled = [], []
        for level, (feature, scale) in enumerate(zip(maps, self.scales)):
            chosen = torch.where(index == level)[0]
            order.append(chosen)
            pooled.append(roi_align(feature.float(), rois[chosen], spatial_scale=scale, **pool))
        return torch.cat(pooled)[torch.cat(order).argsort()].to(maps[0].dtype)
