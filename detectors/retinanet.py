"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): one stage, focal loss, on a pyramid or on one projected level.

The heads, their losses and the selection of detections are torchvision's; geometry comes from `anchors.py` and boxes
stay float32. Labels inside the heads are those outside: there is no background class.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead

from ..layers.winograd import with_winograd
from ..layers.conv_norm_act import norm_layer
from ..errors import InputError, did_you_mean
from ..registry import DETECTORS, build_neck
from .anchors import DeclaredAnchorGenerator, default_sizes
from .base import Detector, shared_width

SINGLE_LEVELS = (3, 4, 5, 6, 7)  # the levels P3-P7, whose anchor sizes a single level carries
BOX_LOSSES = ("l1", "smooth_l1", "giou", "diou", "ciou")


class Float32RetinaNetHead(RetinaNetHead):
    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: output.float() for name, output in super().forward(x).items()}


@DETECTORS.register_module(name="retinanet")
class RetinaNet(Detector):
    """One-stage detector. Call it as Detector says.

    The paper's pyramid is P3-P7: `out_features=("c3", "c4", "c5")` in the backbone, `extra_levels="p6p7_on_c5"` in the
    neck.

    Args:
        backbone, neck, num_classes, load_weights, anchor_sizes, aspect_ratios, round_anchors: as FasterRCNN.
        anchor_scale: size at level 0; the paper's 4 gives 32 px on P3 ... 512 px on P7. A single level carries the
            sizes of the levels 3 to 7.
        anchor_octaves: sizes an octave on every level.
        head_norm: norm of the heads' convolutions, None for none (the paper).
        box_loss: "l1", "smooth_l1", "giou", "diou" or "ciou".
        score_thresh, nms_thresh, detections_per_img, topk_candidates, fg_iou_thresh, bg_iou_thresh: as in torchvision's
            RetinaNet.

    Raises InputError where parts disagree.
    """

    def __init__(
        self,
        backbone: str | Mapping,
        neck: str | Mapping = "fpn",
        num_classes: int = 80,
        *,
        load_weights: bool = True,
        anchor_sizes: Sequence[Sequence[float]] | None = None,
        anchor_scale: float = 4.0,
        anchor_octaves: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        round_anchors: bool = False,
        head_norm: str | None = None,
        box_loss: str = "l1",
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ):
        super().__init__(backbone, num_classes, load_weights)
        if box_loss not in BOX_LOSSES:
            raise InputError(f"unknown box_loss {box_loss!r}; {did_you_mean(str(box_loss), BOX_LOSSES)}")
        self.neck = build_neck(neck, self.backbone.feature_specs)
        specs = self.neck.feature_specs
        sizes = default_sizes(specs, anchor_scale, SINGLE_LEVELS, anchor_octaves) if anchor_sizes is None else anchor_sizes
        self.anchor_generator = DeclaredAnchorGenerator(specs, sizes, aspect_ratios, round_anchors)
        count = self.anchor_generator.num_anchors_per_location()[0]
        self.head = with_winograd(Float32RetinaNetHead(shared_width(specs, neck), count, num_classes, norm_layer(head_norm)))
        self.head.regression_head._loss_type = box_loss  # where torchvision's own builder of the giou form says it
        self.proposal_matcher = Matcher(fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches=True)
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates

    # torchvision's own, which read nothing but the attributes set above
    compute_loss = TorchvisionRetinaNet.compute_loss
    postprocess_detections = TorchvisionRetinaNet.postprocess_detections

    def head_losses(
        self, features: dict[str, Tensor], images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        maps = list(features.values())
        return self.compute_loss(targets, self.head(maps), self.anchor_generator(images, maps))

    def head_detections(self, features: dict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        maps = list(features.values())
        counts = self.anchor_generator.per_level(maps)
        outputs = {name: list(output.split(counts, dim=1)) for name, output in self.head(maps).items()}
        anchors = [list(a.split(counts)) for a in self.anchor_generator(images, maps)]
        return self.postprocess_detections(outputs, anchors, images.image_sizes)
