"""torchvision's region proposal network, with anchors and channels from the feature specs."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from ..registry import PROPOSAL_GENERATORS
from ..specs import FeatureSpec
from .anchors import AnchorGenerator, default_sizes
from .base import Float32Outputs, shared_channels
from .boxes import box_coder
from .sampling import CountedLosses, SeededSampler

SINGLE_LEVELS = (2, 3, 4, 5, 6)  # P2 to P6, whose anchor sizes a single level carries
SEED_STREAM = 0  # see SeededSampler; the RoI heads have another


class Float32RPNHead(Float32Outputs, RPNHead):
    """torchvision's RPN head with float32 outputs."""


@PROPOSAL_GENERATORS.register_module(name="rpn")
class RPN(RegionProposalNetwork):
    """Region proposal network. Pairs are (training, evaluation).

    Args:
        feature_specs: the neck's; all levels carry anchors.
        anchor_sizes: pixels, one sequence per level. Default: `anchor_scale * 2**level`; a single level carries those
            of the levels 2 to 6.
        anchor_scale: 8 gives 32 px on P2 ... 512 px on P6 (FPN paper).
        aspect_ratios, round_anchors: see AnchorGenerator.
        anchor_offset: `offset` of AnchorGenerator.
        bbox_reg_weights: factors on the deltas (dx, dy, dw, dh) that the head predicts.
        conv_depth: number of 3x3 convolutions in the head.
        pre_nms_top_n, post_nms_top_n: proposals kept per level before NMS, and per image after it.
        nms_thresh: IoU above which NMS drops a proposal.
        fg_iou_thresh, bg_iou_thresh: IoU with an object above which an anchor is positive, below which it is negative.
        batch_size_per_image, positive_fraction: anchors sampled for the loss, and the share of positive ones.

    Raises:
        InputError: anchor sizes and levels disagree, or the levels differ in their number of channels.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        *,
        anchor_sizes: Sequence[Sequence[float]] | None = None,
        anchor_scale: float = 8.0,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
        anchor_offset: float = 0.0,
        bbox_reg_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        conv_depth: int = 1,
        pre_nms_top_n: Sequence[int] = (2000, 1000),
        post_nms_top_n: Sequence[int] = (1000, 1000),
        nms_thresh: float = 0.7,
        fg_iou_thresh: float = 0.7,
        bg_iou_thresh: float = 0.3,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
    ):
        sizes = default_sizes(feature_specs, anchor_scale, SINGLE_LEVELS) if anchor_sizes is None else anchor_sizes
        anchor_generator = AnchorGenerator(feature_specs, sizes, aspect_ratios, round_anchors, anchor_offset)
        super().__init__(
            anchor_generator=anchor_generator,
            head=Float32RPNHead(
                shared_channels(feature_specs), anchor_generator.num_anchors_per_location()[0], conv_depth
            ),
            fg_iou_thresh=fg_iou_thresh,
            bg_iou_thresh=bg_iou_thresh,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            pre_nms_top_n=dict(zip(("training", "testing"), pre_nms_top_n)),
            post_nms_top_n=dict(zip(("training", "testing"), post_nms_top_n)),
            nms_thresh=nms_thresh,
        )
        self.box_coder = box_coder(bbox_reg_weights)
        self.fg_bg_sampler = SeededSampler(batch_size_per_image, positive_fraction, SEED_STREAM)

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Any]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals of each image and the losses, as torchvision's RegionProposalNetwork.

        The anchors of a target with "seed" are sampled with that seed.
        """
        self.fg_bg_sampler.set_seeds(targets if self.training else None)
        proposals, losses = super().forward(images, features, targets)
        return proposals, CountedLosses(losses, dict.fromkeys(losses, self.fg_bg_sampler.num_sampled))
