"""Anchors that step by the declared stride, in float32 whatever the features are."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ..features import FeatureSpec


class DeclaredAnchorGenerator(AnchorGenerator):
    """One anchor size a level, `scale * 2**level` pixels (sqrt of the area), times the aspect ratios height / width.

    torchvision's own generator divides the padded image by the grid, which steps P6 of a 1344 px side by 61 px instead
    of 64, and takes the features' dtype, which moves anchors by up to 7 px in bfloat16.

    Args:
        feature_specs: levels that carry anchors, in the order of the feature maps given to `forward`.
        scale: anchor size at level 0; the 8 of the FPN paper gives 32 px on P2 ... 512 px on P6.
        aspect_ratios: height / width.
        round_anchors: round base anchors to whole pixels, as torchvision's published weights were trained.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        scale: float = 8.0,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
    ):
        self.round_anchors = round_anchors
        self.strides = [spec.stride for spec in feature_specs]
        sizes = tuple((scale * 2**spec.level,) for spec in feature_specs)
        super().__init__(sizes, (tuple(aspect_ratios),) * len(sizes))

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device=torch.device("cpu")) -> Tensor:
        """Base anchors around (0, 0): len(ratios) * len(scales) x 4, ratio major as in torchvision."""
        ratios = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)[None, :]
        w, h = (sizes / ratios).flatten(), (sizes * ratios).flatten()
        base = torch.stack([-w, -h, w, h], dim=1) / 2
        return base.round() if self.round_anchors else base

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For every image the same anchors, sum(H * W * A) x 4 xyxy float32, level by level, (H, W, A) order."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [(torch.tensor(stride, device=device),) * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([f.shape[-2:] for f in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)
