"""Detectors of ours as SAHI's `DetectionModel`, for `get_prediction`, `get_sliced_prediction` and `predict`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.detections import Detections
from ..engine.predictor import Predictor
from ..errors import InputError
from .source import required

with required("sahi"):
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask

MASK_THRESHOLD = 0.5  # detectors of ours cut masks there


class DetBackbonesDetectionModel(DetectionModel):
    """A detector of ours. It resizes and normalises images, or slices, as it was trained.

    Args:
        model_path: a run, or another source that `Predictor` takes.
        model: a `Predictor`, in place of `model_path`.
        confidence_threshold: detections with a lower score are left out. SAHI may raise it later, but not lower it.
        category_mapping: names by category id (text), in place of those of the training data.
        arguments: as SAHI documents them: `device`, `category_remapping`, `load_at_init`.

    Raises:
        InputError: the source cannot be loaded, or an argument of SAHI cannot be honoured: `config_path`, `image_size`,
            and a `mask_threshold` other than 0.5.
    """

    model: Predictor

    def __init__(
        self,
        model_path: str | None = None,
        model: Predictor | None = None,
        *,
        confidence_threshold: float = 0.3,
        category_mapping: dict[str, str] | None = None,
        **arguments: Any,
    ):
        refused = {"config_path": None, "image_size": None, "mask_threshold": MASK_THRESHOLD}
        for name, default in refused.items():
            if arguments.get(name, default) != default:
                raise InputError(f"{name}={arguments[name]!r} has no effect on detectors of ours; leave it out")
        super().__init__(
            model_path,
            model,
            confidence_threshold=confidence_threshold,
            category_mapping=category_mapping,
            **arguments,
        )

    def load_model(self) -> None:
        """Load the detector of `model_path`."""
        if self.model_path is None:
            raise InputError("give model_path, the folder of a run, or model, a Predictor")
        self.set_model(Predictor(self.model_path, device=self.device, score_threshold=self.confidence_threshold))

    def set_model(self, model: Predictor, **kwargs: Any) -> None:
        """Use a `Predictor`."""
        self.model = model
        # SAHI's ids are integers
        is_int = all(isinstance(category_id, int) for category_id in model.category_ids)
        self._ids = list(model.category_ids) if is_int else list(range(len(model.names)))
        known = {str(number): name for number, name in zip(self._ids, model.names)}
        self.category_mapping = known | (self.category_mapping or {})

    @property
    def has_mask(self) -> bool:
        """Whether the detector finds masks."""
        return "segm" in self.model.detectors[0].model.tasks

    @property
    def num_categories(self) -> int:
        """Number of classes."""
        return len(self._ids)

    @property
    def category_names(self) -> list[str]:
        """Name of each class."""
        return [self._name(category_id) for category_id in self._ids]

    def _name(self, category_id: Any) -> str:
        assert self.category_mapping is not None
        return self.category_mapping[str(category_id)]

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect the objects in an RGB image H x W x C."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: Sequence[np.ndarray]) -> None:
        """Detect the objects in RGB images, in batches as the `Predictor` makes them."""
        self._original_predictions = self.model(list(images))

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        """Convert the detections to SAHI's objects; a shift is (x, y) of a slice, a shape (height, width)."""
        shifts = fix_shift_amount_list(shift_amount_list or [0, 0])
        if len(shifts) == 1:
            shifts = list(shifts) * len(self._original_predictions)
        shapes = fix_full_shape_list(full_shape_list) or [detections.size for detections in self._original_predictions]
        self._object_prediction_list_per_image = [
            self._convert(detections.filter(self.confidence_threshold), shift, shape)
            for detections, shift, shape in zip(self._original_predictions, shifts, shapes, strict=True)
        ]

    def _convert(
        self, detections: Detections, shift: Sequence[float], full_shape: Sequence[float]
    ) -> list[ObjectPrediction]:
        masks = detections.masks
        predictions = []
        for index, (box, score, label) in enumerate(
            zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist())
        ):
            polygons = None if masks is None else get_coco_segmentation_from_bool_mask(masks[index].numpy())
            predictions.append(
                ObjectPrediction(
                    bbox=box,
                    category_id=self._ids[label],
                    category_name=self._name(self._ids[label]),
                    segmentation=polygons or None,  # SAHI takes no empty masks
                    score=score,
                    shift_amount=list(shift),
                    full_shape=list(full_shape),
                )
            )
        return predictions
