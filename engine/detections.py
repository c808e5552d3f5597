"""What a `Predictor` returns: the detections in one image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import hotcoco
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.image_inputs import ImageInput, read_input
from ..errors import check_known
from ..layers.mask_ops import encode_masks, paste_masks
from ..visualization.detection_picture import draw_detections
from .merging import Found

if TYPE_CHECKING:
    import supervision

DRAWN_SCORE = 0.5


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects in one image, best first.

    `len(detections)` is their number; `detections[...]` takes a position, a slice, or an index or a bool per object.

    Attributes:
        boxes: N x 4 float32, xyxy in pixels of the image.
        scores: N float32.
        labels: N int64, the classes as positions in `names` and `category_ids`.
        names: name of each class of the model.
        category_ids: id of each class in the training data.
        size: height and width of the image.
        rles: one COCO RLE per object, or None if the model has no masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: Sequence[str]
    category_ids: Sequence[int | str]
    size: tuple[int, int]
    rles: list[dict[str, Any]] | None = None
    _read: Callable[[], Tensor] | None = field(default=None, repr=False)

    @classmethod
    def from_found(cls, found: Found, paste: Callable[..., Tensor] = paste_masks, **attributes: Any) -> "Detections":
        """Paste masks one at a time, so that one of them at most is dense; for `attributes` see the class."""
        rles = None
        if "masks" in found:
            pairs = zip(found["masks"], found["boxes"])
            rles = [encode_masks(paste(mask[None], box[None], attributes["size"]))[0] for mask, box in pairs]
        return cls(found["boxes"], found["scores"], found["labels"], rles=rles, **attributes)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = [f"{self.class_names.count(name)} {name}" for name in dict.fromkeys(self.class_names)]
        return f"Detections({len(self)}{': ' + ', '.join(counts) if counts else ''})"

    def __getitem__(self, chosen: Any) -> "Detections":
        indices = torch.arange(len(self))[chosen].reshape(-1)
        rles = None if self.rles is None else [self.rles[index] for index in indices.tolist()]
        boxes, scores, labels = (values[indices] for values in (self.boxes, self.scores, self.labels))
        return replace(self, boxes=boxes, scores=scores, labels=labels, rles=rles)

    @property
    def class_names(self) -> list[str]:
        """Name of the class of each object."""
        return [self.names[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> Tensor | None:
        """N x H x W bool, made when asked for: a byte per object and pixel. None if the model has no masks."""
        if self.rles is None:
            return None
        masks = torch.zeros((len(self), *self.size), dtype=torch.bool)
        for dense, mask in zip(masks, self._decoded()):
            dense.copy_(mask)
        return masks

    def filter(self, score: float = 0.0, classes: Sequence[str] | None = None) -> "Detections":
        """Return the objects with at least this score, of these classes (by name).

        Raises:
            InputError: the model does not have such a class.
        """
        keep = self.scores >= score
        if classes is not None:
            check_known("class", self.names, *classes)
            keep &= torch.tensor([name in classes for name in self.class_names], dtype=torch.bool)
        return self[keep]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return entries of a COCO results file (https://cocodataset.org/#format-results).

        Category ids are those of the training data; masks are compressed RLE.
        """
        boxes = self.boxes.double()
        boxes[:, 2:] -= boxes[:, :2]
        entries = []
        for index, (box, score, label) in enumerate(
            zip(boxes.tolist(), self.scores.double().tolist(), self.labels.tolist())
        ):
            mask = {} if self.rles is None else {"segmentation": self.rles[index]}
            category = {"image_id": image_id, "category_id": self.category_ids[label]}
            entries.append({**category, "bbox": box, **mask, "score": score})
        return entries

    def to_supervision(self) -> "supervision.Detections":
        """Return `supervision.Detections`, with labels as `class_id` and names as `data["class_name"]`."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            mask=None if self.rles is None else self.masks.numpy(),  # type: ignore[union-attr]
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.class_names, dtype=str)},
        )

    def plot(self, image: ImageInput | None = None, score: float = DRAWN_SCORE) -> Image.Image:
        """Draw the objects with at least this score.

        Args:
            image: the image, if it is not to be read again.
            score: the lowest score.

        Returns:
            An RGB picture, of the size of the image or enlarged.
        """
        if image is not None:
            pixels = image if isinstance(image, Tensor) else read_input(image)
        elif self._read is not None:
            pixels = self._read()
        else:
            raise ValueError("plot needs the image")
        shown = self.filter(score)
        masks = () if shown.rles is None else shown._decoded()
        return draw_detections(pixels, shown.boxes, shown.labels, shown.scores, masks, self.names)

    def _decoded(self) -> Iterator[Tensor]:
        """Yield the masks, H x W bool, one at a time."""
        return (torch.from_numpy(hotcoco.mask.decode(rle)).bool() for rle in self.rles or ())
