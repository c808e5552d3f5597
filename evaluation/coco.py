"""Compute COCO's 12 metrics for boxes and masks (https://cocodataset.org/#detection-eval)."""

import contextlib
import io
import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import hotcoco
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from torch import Tensor

from ..layers.mask_ops import encode_masks

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KINDS = ("bbox", "segm")
BACKENDS = {  # libraries with pycocotools' interface
    "hotcoco": SimpleNamespace(COCO=hotcoco.COCO, COCOeval=hotcoco.COCOeval),
    "pycocotools": SimpleNamespace(COCO=COCO, COCOeval=COCOeval),
}


class CocoEvaluator:
    """Collect detections image by image, then score them against a COCO annotation file.

    Every image of the file counts, also one without detections. Inside, images, categories and annotations are numbered
    1..N: pycocotools never matches an annotation with id 0, and hotcoco refuses negative ids, text and 2**64.

    Args:
        content: the parsed annotation file (images, annotations, categories), checked by `data.annotations`. It is not
            changed. Segmentations are needed only to score masks.
        kinds: "bbox", "segm" or both.
        backend: "hotcoco", or "pycocotools" for the reference, which has the same metrics and is far slower.

    Attributes:
        predictions: image id -> (N x 7 float64 with the columns image number, x, y, width, height, score, category
            number; one compressed RLE per mask). They can be sent to an evaluator in another process, see `merge`.
    """

    def __init__(self, content: Mapping, kinds: Sequence[str] = KINDS, backend: str = "hotcoco"):
        if backend not in BACKENDS or not set(kinds) <= set(KINDS):
            known = f"backend must be one of {list(BACKENDS)} and kinds of {list(KINDS)}"
            raise ValueError(f"{known}, got {backend!r} and {list(kinds)}")
        self.kinds, self.backend = tuple(kinds), backend
        self.predictions: dict[Hashable, tuple[np.ndarray, list[dict]]] = {}
        self._annotations = content["annotations"]
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        self._image_numbers = _number(self._sizes)
        self._category_numbers = _number([category["id"] for category in content["categories"]])

    def update(self, predictions: Mapping[Hashable, Mapping[str, Tensor]]) -> None:
        """Add the detections of images; those of an image that is given again are replaced.

        Args:
            predictions: image id -> {"boxes": N x 4 xyxy in pixels of the image on disk, "scores": N, "labels": N
                category ids, "masks": N x H x W bool (only if masks are scored)}.

        Raises:
            ValueError: an image or category is not in the annotation file; boxes, scores, labels and masks do not fit
                each other or the image; or a number is not finite.
        """
        for image_id, output in predictions.items():
            if image_id not in self._sizes:
                raise ValueError(f"image id {image_id!r} is not in the annotation file")
            table = self._to_table(image_id, output)
            masks: list[dict] = []
            if "segm" in self.kinds:
                expected = (len(table), *self._sizes[image_id])
                shape = tuple(output["masks"].shape) if "masks" in output else None
                if shape != expected:
                    raise ValueError(f"image {image_id!r}: masks must have shape {expected}, got {shape}")
                masks = encode_masks(output["masks"])
            self.predictions[image_id] = (table, masks)

    def merge(self, predictions: Mapping[Hashable, tuple[np.ndarray, list[dict]]]) -> None:
        """Add the `predictions` of another evaluator of the same annotation file, for example of another process.

        An image that both have keeps the added predictions.
        """
        self.predictions.update(predictions)

    def results(self, kind: str) -> list[dict]:
        """Return all detections as COCO result entries with "bbox" (x, y, width, height) or "segmentation" (RLE).

        An entry with a mask has no box: pycocotools would take the area of the box for that of the mask.
        """
        table, masks = self._collect()
        image_ids, category_ids = list(self._image_numbers), list(self._category_numbers)
        return [
            {
                "image_id": image_ids[int(image) - 1],
                "category_id": category_ids[int(category) - 1],
                "score": score,
                **({"bbox": box} if kind == "bbox" else {"segmentation": masks[index]}),
            }
            for index, (image, *box, score, category) in enumerate(table.tolist())
        ]

    def compute(self) -> dict[str, float]:
        """Return {"bbox/AP": ..., "bbox/AP50": ..., ...}, 12 metrics per kind; -1 without ground truth of that size."""
        metrics = {}
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._to_dataset(self._annotations)
            for kind in self.kinds:
                scorer = BACKENDS[self.backend].COCOeval(truth, self._detections(truth, kind), kind)
                scorer.evaluate()
                scorer.accumulate()
                scorer.summarize()
                for name, value in zip(METRIC_NAMES, scorer.stats, strict=True):
                    metrics[f"{kind}/{name}"] = float(value)
        return metrics

    def _to_table(self, image_id: Hashable, output: Mapping[str, Tensor]) -> np.ndarray:
        labels = output["labels"].tolist() if hasattr(output["labels"], "tolist") else list(output["labels"])
        unknown = [label for label in labels if label not in self._category_numbers]
        if unknown:
            raise ValueError(f"image {image_id!r}: category id {unknown[0]!r} is not in the annotation file")
        boxes = torch.as_tensor(output["boxes"]).double().cpu().numpy().reshape(-1, 4)
        scores = torch.as_tensor(output["scores"]).double().cpu().numpy()
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image {image_id!r}: boxes and scores must be finite")
        images = np.full(len(boxes), self._image_numbers[image_id])
        categories = [self._category_numbers[label] for label in labels]
        return np.column_stack([images, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, categories])

    def _collect(self) -> tuple[np.ndarray, list[dict]]:
        """Return the predictions of all images in the order of their numbers, which decides between equal scores."""
        predictions = [self.predictions[image_id] for image_id in self._image_numbers if image_id in self.predictions]
        table = np.concatenate([np.empty((0, 7)), *(table for table, _ in predictions)])
        return table, [rle for _, masks in predictions for rle in masks]

    def _detections(self, truth: Any, kind: str) -> Any:
        """Return the detections as a dataset of the backend."""
        if self.backend == "pycocotools":
            return self._to_dataset({**entry, "area": _area(entry)} for entry in self.results(kind))
        table, masks = self._collect()  # many times faster than a dict per detection
        if kind == "bbox":
            return truth.load_res(table)
        detections = truth.load_res(table, segmentation=masks)
        detections.update_anns(ids=np.arange(len(table)) + 1, area=hotcoco.mask.area(masks))  # not those of the boxes
        return detections

    def _to_dataset(self, entries: Iterable[Mapping]) -> Any:
        """Build the backend's COCO object from annotations or detections, with all ids renumbered from 1."""
        keys = {"area", "bbox", "score"} | ({"segmentation"} if "segm" in self.kinds else set())
        annotations = [
            {
                **{key: value for key, value in entry.items() if key in keys},
                "id": number,
                "image_id": self._image_numbers[entry["image_id"]],
                "category_id": self._category_numbers[entry["category_id"]],
                "iscrowd": entry.get("iscrowd", 0),
            }
            for number, entry in enumerate(entries, 1)
        ]
        sizes = [(number, *self._sizes[image_id]) for image_id, number in self._image_numbers.items()]
        dataset = BACKENDS[self.backend].COCO()
        dataset.dataset = {
            "images": [{"id": number, "height": height, "width": width} for number, height, width in sizes],
            "categories": [{"id": number, "name": str(number)} for number in self._category_numbers.values()],
            "annotations": annotations,
        }
        dataset.createIndex()
        return dataset


def _number(ids: Collection[Hashable]) -> dict[Hashable, int]:
    """Number ids from 1: integers in ascending order, as pycocotools takes them, others in the order of the file."""
    integers = all(isinstance(value, int) for value in ids)
    return {value: number for number, value in enumerate(sorted(ids) if integers else ids, 1)}  # type: ignore[type-var]


def _area(entry: Mapping) -> float:
    return math.prod(entry["bbox"][2:]) if "bbox" in entry else float(hotcoco.mask.area(entry["segmentation"]))


def coco_table(metrics: Mapping[str, float]) -> Table:
    """Return a table with a row per kind, in points (100 is perfect); a dash if there is nothing to find.

    Args:
        metrics: the metrics of `CocoEvaluator.compute`.
    """
    columns = [Column(name, justify="right") for name in METRIC_NAMES]
    table = Table("COCO", *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits 80 characters
    for kind in KINDS:
        if f"{kind}/AP" in metrics:
            values = [metrics[f"{kind}/{name}"] for name in METRIC_NAMES]
            table.add_row(kind, *("-" if value < 0 else f"{100 * value:.1f}" for value in values))
    return table
