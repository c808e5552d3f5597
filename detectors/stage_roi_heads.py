"""RoI heads of the C4 form: the backbone's last stage runs on every RoI (arXiv:1512.03385, appendix A)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.roi_heads import maskrcnn_inference

from ..backbones.blocks import Stage
from ..errors import InputError
from ..registry import ROI_HEADS
from ..specs import FeatureSpec
from .predictors import Float32BoxPredictor, Float32MaskPredictor
from .roi_heads import BoxRoIHeads
from .roi_pooler import RoIPooler


@ROI_HEADS.register_module(name="stage")
class StageRoIHeads(BoxRoIHeads):
    """Box and mask predictors on one shared stage, like detectron2's Res5ROIHeads.

    In training the stage runs once: masks are predicted from the stage's output for the foreground RoIs.

    Args:
        feature_specs: the one level that RoIs are pooled from, the input of the stage.
        num_classes: number of foreground classes.
        stage: the stage; a detector config gives its name ("c5"), and the detector takes it from the backbone.
        masks: predict masks.
        pool_size: output cells of pooling per side; a stage of stride 2 halves them.
        sampling_ratio, aligned: see RoIPooler.
        mask_dim: output channels of the mask predictor's transposed convolution.
        class_agnostic_boxes, class_agnostic_masks: see StandardRoIHeads.
        options: thresholds and sampling, see BoxRoIHeads.

    Raises:
        InputError: `stage` is a name, which only a detector can resolve.
    """

    def __init__(
        self,
        feature_specs: Sequence[FeatureSpec],
        num_classes: int,
        stage: Stage | str,
        *,
        masks: bool = False,
        pool_size: int = 14,
        sampling_ratio: int = 2,
        aligned: bool = True,
        mask_dim: int = 256,
        class_agnostic_boxes: bool = False,
        class_agnostic_masks: bool = False,
        **options: Any,
    ):
        if isinstance(stage, str):
            raise InputError(f"stage must be a module, got {stage!r}; name a stage only in the config of a detector")
        channels = stage.spec.channels
        super().__init__(
            RoIPooler(feature_specs, pool_size, sampling_ratio, aligned),
            nn.Identity(),
            Float32BoxPredictor(channels, num_classes + 1, class_agnostic_boxes),
            **options,
        )
        self.stage = stage
        if masks:
            self.mask_predictor = Float32MaskPredictor(channels, mask_dim, num_classes + 1, class_agnostic_masks)

    def has_mask(self) -> bool:
        return self.mask_predictor is not None

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return (detections, {}) in evaluation mode and ([], losses) in training mode, as torchvision's RoIHeads."""
        if self.training:
            return super().forward(features, proposals, image_shapes, targets)
        return self._detections(features, proposals, image_shapes), {}

    def _run_stage(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Return the stage's output of every box: K x C x S x S."""
        return self.stage(self.box_roi_pool(features, boxes, image_shapes))

    def predict_boxes(
        self, features: dict[str, Tensor], rois: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        roi_features = self._run_stage(features, rois, image_shapes)
        return roi_features, *self.box_predictor(roi_features.mean(dim=(2, 3)))

    def predict_masks(
        self,
        features: dict[str, Tensor],
        rois: list[Tensor],
        image_shapes: list[tuple[int, int]],
        roi_features: Tensor | None = None,
    ) -> Tensor:
        if roi_features is None:
            roi_features = self._run_stage(features, rois, image_shapes)
        return self.mask_predictor(roi_features)

    def _detections(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        roi_features, logits, deltas = self.predict_boxes(features, proposals, image_shapes)
        del roi_features  # not kept while the stage runs again for the masks
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        detections = [dict(boxes=b, scores=s, labels=c) for b, s, c in zip(boxes, scores, labels)]
        if self.has_mask():
            mask_logits = self.predict_masks(features, boxes, image_shapes)
            for detection, masks in zip(detections, maskrcnn_inference(mask_logits, labels)):
                detection["masks"] = masks
        return detections
