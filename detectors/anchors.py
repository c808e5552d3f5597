"""Anchors that step by the declared stride, in float32 whatever the features are."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ..specs import FeatureSpec
from ..errors import InputError

REMEMBERED = 8  # grids, of 4 MiB each for an image of 800 x 1333


def default_sizes(
    feature_specs: Sequence[FeatureSpec], scale: float, single_levels: Sequence[int], octaves: int = 1
) -> tuple[tuple[float, ...], ...]:
    """Anchor sizes in pixels (sqrt of the area) for every level.

    Args:
        feature_specs: levels that carry anchors.
        scale: size at level 0; a level has `scale * 2**level`, whatever its stride.
        single_levels: a single level (C4, DC5) has no pyramid to share the sizes among, so it carries those of all
            these levels, as detectron2 and the papers do: 5 sizes on every cell.
        octaves: sizes an octave; 3 gives 1, 2**(1/3) and 2**(2/3) times the size (RetinaNet, section 4).
    """
    levels = [single_levels] if len(feature_specs) == 1 else [(spec.level,) for spec in feature_specs]
    return tuple(tuple(scale * 2 ** (level + i / octaves) for level in ls for i in range(octaves)) for ls in levels)


class DeclaredAnchorGenerator(AnchorGenerator):
    """Anchors of the given sizes and aspect ratios around every cell, at multiples of the declared stride.

    torchvision's own generator divides the padded image by the grid, which steps P6 of a 1344 px side by 61 px instead
    of 64, and takes the features' dtype, which moves anchors by up to 7 px in bfloat16.

    Args:
        feature_specs: levels that carry anchors, in the order of the feature maps given to `forward`.
        sizes: pixels (sqrt of the area), one sequence for every level; all equally long, as one head serves all.
        aspect_ratios: height / width.
        round_anchors: whole pixels for sizes and base anchors, as torchvision's published weights were trained.

    Raises InputError where sizes and levels disagree.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
    ):
        names = [spec.name for spec in feature_specs]
        if len(sizes) != len(names):
            raise InputError(f"anchor_sizes has {len(sizes)} entries, but anchors sit on {len(names)} levels "
                             f"({', '.join(names)})")  # fmt: skip
        if len({len(s) for s in sizes}) != 1 or not sizes[0]:
            raise InputError(f"one head serves all levels, so each needs as many anchor sizes, not {[len(s) for s in sizes]}")
        self.round_anchors = round_anchors
        self.made: dict[tuple, Tensor] = {}  # by grids and device
        self.strides = [spec.stride for spec in feature_specs]
        if round_anchors:
            sizes = [[int(size) for size in level] for level in sizes]
        super().__init__(tuple(tuple(level) for level in sizes), (tuple(aspect_ratios),) * len(sizes))

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device=torch.device("cpu")) -> Tensor:
        """Base anchors around (0, 0): len(ratios) * len(scales) x 4, ratio major as in torchvision."""
        ratios = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)[None, :]
        w, h = (1 / ratios * sizes).flatten(), (ratios * sizes).flatten()
        base = torch.stack([-w, -h, w, h], dim=1) / 2
        return base.round() if self.round_anchors else base

    def per_level(self, feature_maps: Sequence[Tensor]) -> list[int]:
        """How many anchors sit on each of the maps."""
        return [f.shape[-2] * f.shape[-1] * count for f, count in zip(feature_maps, self.num_anchors_per_location())]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For every image the same anchors, sum(H * W * A) x 4 xyxy float32, level by level, (H, W, A) order."""
        device, grids = feature_maps[0].device, tuple(tuple(f.shape[-2:]) for f in feature_maps)
        anchors = self.made.pop((grids, device), None)
        if anchors is None:
            with torch.inference_mode(False):  # what detection makes must serve training too
                self.set_cell_anchors(torch.float32, device)
                strides = [(torch.tensor(stride, device=device),) * 2 for stride in self.strides]
                anchors = torch.cat(self.grid_anchors(grids, strides))
        self.made[grids, device] = anchors  # the last one is the most recent
        if len(self.made) > REMEMBERED:
            del self.made[next(iter(self.made))]
        return [anchors] * len(image_list.image_sizes)
