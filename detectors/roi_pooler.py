"""Multi-level RoI pooling: levels by equation 1 of the FPN paper, spatial scale 1 / declared stride."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, box_area

from ..errors import InputError
from ..layers.roi_align import roi_align_levels
from ..specs import FeatureSpec

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4  # FPN paper (arXiv:1612.03144), equation 1


class RoIPooler(MultiScaleRoIAlign):
    """RoIAlign over levels chosen by `FeatureSpec.level`, with scale 1 / stride.

    The level is floor(4 + log2(sqrt(area) / 224) + 1e-6), clamped to the levels present; an absent level (strides 4,
    16, 32) goes to the next finer one. torchvision infers scales from the first batch and counts positions, which gives
    large RoIs all-zero features if a level is skipped.

    Args:
        feature_specs: the levels to pool from.
        output_size: output cells per side.
        sampling_ratio: samples per output cell and axis; 0 adapts to the size of the RoI, as detectron2 does.
        aligned: half-pixel correct RoIAlign (detectron2, mmdetection); False is torchvision's.

    Raises:
        InputError: the levels do not strictly increase.
    """

    roi_align = staticmethod(roi_align_levels)

    def __init__(
        self, feature_specs: Sequence[FeatureSpec], output_size: int, sampling_ratio: int = 2, aligned: bool = True
    ):
        super().__init__([spec.name for spec in feature_specs], output_size, sampling_ratio)
        self.levels = [spec.level for spec in feature_specs]
        if self.levels != sorted(set(self.levels)):
            raise InputError(f"RoI pooling needs strictly increasing levels, got {self.levels}")
        self.scales = [1 / spec.stride for spec in feature_specs]
        self.aligned = aligned

    def level_index(self, boxes: Tensor) -> Tensor:
        """Return an index into `feature_specs` for each of N x 4 float32 boxes in input pixels."""
        size = box_area(boxes).sqrt()
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE) + 1e-6)
        level = level.clamp(self.levels[0], self.levels[-1])
        present = torch.tensor(self.levels, device=boxes.device, dtype=level.dtype)
        return (level[:, None] >= present).sum(dim=1) - 1

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the K boxes of all images, xyxy in input pixels: K x C x output_size x output_size."""
        image_index = torch.cat([image.new_full((len(image), 1), index) for index, image in enumerate(boxes)])
        rois = torch.cat([image_index, torch.cat(boxes)], dim=1).float()
        return self.pool([x[name] for name in self.featmap_names], rois)

    def pool(self, maps: list[Tensor], rois: Tensor) -> Tensor:
        """Pool K RoIs, K x 5 float32 (index of the image, xyxy in input pixels), from the maps of `feature_specs`."""
        pooled = self.roi_align(
            [feature.float() for feature in maps],
            self.scales,
            rois,
            self.level_index(rois[:, 1:]),
            self.output_size[0],
            self.sampling_ratio,
            self.aligned,
        )
        return pooled.to(maps[0].dtype)
