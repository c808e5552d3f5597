"""torchvision's box and mask predictors with float32 outputs, per class or for all classes at once."""

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from .base import Float32Outputs


class Float32BoxPredictor(Float32Outputs, FastRCNNPredictor):
    """torchvision's box predictor with float32 outputs.

    Args:
        in_channels: features per RoI.
        num_classes: classes with the background.
        class_agnostic: predict one box per RoI for all classes (detectron2's CLS_AGNOSTIC_BBOX_REG).
    """

    def __init__(self, in_channels: int, num_classes: int, class_agnostic: bool = False):
        super().__init__(in_channels, num_classes)
        self.repeats = num_classes if class_agnostic else 1
        if class_agnostic:
            self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits K x classes and deltas K x (4 classes) of K RoIs."""
        logits, deltas = super().forward(x)
        return logits, deltas.repeat(1, self.repeats)


class Float32MaskPredictor(Float32Outputs, MaskRCNNPredictor):
    """torchvision's mask predictor with float32 outputs.

    Args:
        in_channels: channels of the RoI features.
        dim: channels after the transposed convolution.
        num_classes: classes with the background.
        class_agnostic: predict one mask per RoI for all classes (detectron2's CLS_AGNOSTIC_MASK).
    """

    def __init__(self, in_channels: int, dim: int, num_classes: int, class_agnostic: bool = False):
        super().__init__(in_channels, dim, 1 if class_agnostic else num_classes)
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits K x classes x M x M."""
        return super().forward(x).expand(-1, self.num_classes, -1, -1)
