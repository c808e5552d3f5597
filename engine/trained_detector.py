"""Load a trained detector from any source: a run of ours, or a checkpoint of another library."""

from dataclasses import dataclass
from typing import Any

from ..detectors.base import Detector
from ..detectors.pretrained import build_from_source, merge_parts
from ..registry import import_modules
from ..weights.cards import WeightCard
from ..weights.detector_sources import read_detector


@dataclass(frozen=True)
class TrainedDetector:
    """A detector with its trained weights, and what is needed to use it.

    Attributes:
        model: in evaluation mode, on the CPU; it takes RGB images, see `Detector`, and normalises them itself.
        metadata: "category_ids" and "category_names" in the order of the labels; if known, "image_mean" and "image_std"
            per channel of images in [0, 1], and "image_range" (see `read_image`).
        config: config of the model as `build_detector` takes it.
        short_side, long_side: pixels that images are resized to for a test; None for the size on disk.
        source: where it comes from.
        precision: "no", "bf16" or "fp16", in which it was trained and is tested.
        card: what the weights of another library mean; None for a run of ours.
    """

    model: Detector
    metadata: dict[str, Any]
    config: dict[str, Any]
    short_side: int | None
    long_side: int | None
    source: str
    precision: str = "no"
    card: WeightCard | None = None

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.model.backbone.preprocess.channels


def load_detector(source: str, **overrides: Any) -> TrainedDetector:
    """Build the detector of a source with its weights.

    Args:
        source: see `read_detector`.
        overrides: arguments of the detector; a dict without "type" changes single arguments of a part, such as
            `backbone=dict(norm_eps=0.0)`.

    Raises:
        InputError: the source cannot be read, or it is not a detector.
    """
    found = read_detector(source)
    import_modules(found.imports)
    model = build_from_source(found, **overrides)
    config = merge_parts(found.model, overrides)
    sides = {"short_side": found.short_side, "long_side": found.long_side}
    return TrainedDetector(
        model.eval(), found.metadata, config, **sides, source=source, precision=found.precision, card=found.card
    )
