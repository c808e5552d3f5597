"""Compute COCO's metrics for boxes and masks (https://cocodataset.org/#detection-eval), and LVIS's."""

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
from torch import Tensor

from ..data.segmentations import to_rle
from ..errors import InputError
from ..layers.mask_ops import encode_masks
from .lvis import is_lvis, renumber_lvis
from .metrics import detection_limits, metric_names, summarize

KINDS = ("bbox", "segm")
BACKENDS = {  # libraries with pycocotools' interface
    "hotcoco": SimpleNamespace(COCO=hotcoco.COCO, COCOeval=hotcoco.COCOeval),
    "pycocotools": SimpleNamespace(COCO=COCO, COCOeval=COCOeval),
}
MAX_DETS, LVIS_MAX_DETS = 100, 300


class CocoEvaluator:
    """Collect detections image by image, then score them against a COCO annotation file.

    Every image of the file counts, also one without detections. Inside, images, categories and annotations are numbered
    1..N: pycocotools never matches an annotation with id 0, and hotcoco refuses negative ids, text and 2**64.

    A file whose images have LVIS's "neg_category_ids" or "not_exhaustive_category_ids" is scored by LVIS's rule: a
    detection counts only if its category was verified in the image, and the metrics have APr, APc and APf for rare,
    common and frequent categories.

    Args:
        content: the parsed annotation file (images, annotations, categories), checked by `data.annotations`. It is not
            changed. Segmentations are needed only to score masks.
        kinds: "bbox", "segm" or both.
        backend: "hotcoco", or "pycocotools" for the reference, which has the same metrics and is far slower.
        max_dets: only the best detections count: per image and category, with LVIS per image. None: 100, with LVIS 300.
        category_ids: category id per label, if detections have labels instead of category ids.

    Raises:
        InputError: an LVIS file is malformed, or is to be scored by pycocotools.

    Attributes:
        predictions: image id -> (N x 7 float64 with the columns image number, x, y, width, height, score, category
            number; one compressed RLE per mask). They can be sent to an evaluator in another process, see `merge`.
        category_ids, category_names: of the file, in the order of the numbers 1..N.
        is_lvis: whether LVIS's rule holds.
        metric_names: names of the metrics of one kind.
    """

    def __init__(
        self,
        content: Mapping,
        kinds: Sequence[str] = KINDS,
        backend: str = "hotcoco",
        max_dets: int | None = None,
        category_ids: Sequence[Hashable] | None = None,
    ):
        if backend not in BACKENDS or not set(kinds) <= set(KINDS):
            known = f"backend must be one of {list(BACKENDS)} and kinds of {list(KINDS)}"
            raise ValueError(f"{known}, got {backend!r} and {list(kinds)}")
        self.kinds, self.backend = tuple(kinds), backend
        self.predictions: dict[Hashable, tuple[np.ndarray, list[dict]]] = {}
        self.annotations = content["annotations"]
        self.sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        self._file_names = {image["id"]: image.get("file_name") for image in content["images"]}
        self.image_numbers = _number(self.sizes)
        categories = {category["id"]: category for category in content["categories"]}
        self.category_numbers = _number(categories)
        self.category_ids = list(self.category_numbers)
        self.category_names = [str(categories[key].get("name", key)) for key in self.category_ids]
        self._label_numbers: Mapping[Hashable, int] = self.category_numbers
        if category_ids is not None:
            self._label_numbers = {label: self.category_numbers[key] for label, key in enumerate(category_ids)}
        self.is_lvis = is_lvis(content["images"])
        if self.is_lvis and backend != "hotcoco":
            raise InputError(f"an LVIS annotation file needs the backend hotcoco, {backend} does not have LVIS's rule")
        self._lvis = renumber_lvis(content["images"], self.category_numbers) if self.is_lvis else {}
        self._frequencies = (
            [str(categories[key].get("frequency")) for key in self.category_ids] if self.is_lvis else None
        )
        self.max_dets = max_dets or (LVIS_MAX_DETS if self.is_lvis else MAX_DETS)
        self.metric_names = metric_names(self.max_dets, self.is_lvis)

    def update(self, items: Iterable[tuple[Any, Mapping]], outputs: Iterable[Mapping[str, Tensor]]) -> None:
        """Add the outputs of a detector for items of a dataset, whose targets have an "image_id"; see `add`."""
        for (_, target), output in zip(items, outputs, strict=True):
            self.add(target["image_id"], output)

    def add(self, image_id: Hashable, output: Mapping[str, Tensor]) -> None:
        """Add the detections of an image, or replace those that it has.

        Args:
            image_id: id of the image in the annotation file.
            output: "boxes" N x 4 xyxy in pixels of the image on disk; "scores" N; "labels" N category ids (or labels,
                see `category_ids`); "masks" N x H x W bool (only if masks are scored).

        Raises:
            ValueError: the image or a category is not in the annotation file; boxes, scores, labels and masks do not
                fit each other or the image; or a number is not finite.
        """
        if image_id not in self.sizes:
            raise ValueError(f"image id {image_id!r} is not in the annotation file")
        table = self._to_table(image_id, output)
        masks: list[dict] = []
        if "segm" in self.kinds:
            expected = (len(table), *self.sizes[image_id])
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

    def results(self, *kinds: str) -> list[dict]:
        """Return all detections as COCO result entries, with the "file_name" of the image if it has one.

        Args:
            kinds: "bbox" for entries with a "bbox" (x, y, width, height), "segm" for entries with a "segmentation"
                (RLE); not given: those of the evaluator. pycocotools takes the area of the box for that of the mask if
                an entry has both, which changes APs, APm and APl of masks.
        """
        kinds = kinds or self.kinds
        table, masks = self.collect()
        image_ids = list(self.image_numbers)
        results = []
        for index, (image, *box, score, category) in enumerate(table.tolist()):
            entry: dict[str, Any] = {
                "image_id": image_ids[int(image) - 1],
                "category_id": self.category_ids[int(category) - 1],
            }
            if "bbox" in kinds:
                entry["bbox"] = box
            if "segm" in kinds:
                entry["segmentation"] = masks[index]
            entry["score"] = score
            if file_name := self._file_names[entry["image_id"]]:
                entry["file_name"] = file_name
            results.append(entry)
        return results

    def compute(self) -> dict[str, float]:
        """Return {"bbox/AP": ..., "bbox/AP50": ..., ...} with `metric_names` of every kind.

        A metric is -1 if no object has that size or frequency.
        """
        metrics: dict[str, float] = {}
        for kind in self.kinds:
            values = summarize(self.score(kind).eval, self.max_dets, self._frequencies)
            metrics |= {f"{kind}/{name}": value for name, value in values.items()}
        return metrics

    def score(self, kind: str, backend: str | None = None, rows: np.ndarray | None = None) -> Any:
        """Return a `COCOeval` that has matched the detections and accumulated precision and recall.

        Its ids are numbers: images and categories in the order of `image_numbers` and `category_numbers`, annotations
        and detections in the order of `annotations` and `results`.

        Args:
            kind: "bbox" or "segm".
            backend: not given: the evaluator's.
            rows: bool per detection: whether it is used. Only with hotcoco.
        """
        backend = backend or self.backend
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._to_dataset(self.annotations, kind, backend, keys=("area", "bbox"))
            detections = self._detections(truth, kind, backend, rows)
            scorer = BACKENDS[backend].COCOeval(
                truth, detections, kind, **({"lvis_style": True} if self.is_lvis else {})
            )
            scorer.params.maxDets = detection_limits(self.max_dets, self.is_lvis)
            scorer.evaluate()
            scorer.accumulate()
        return scorer

    def _to_table(self, image_id: Hashable, output: Mapping[str, Tensor]) -> np.ndarray:
        labels = output["labels"].tolist() if hasattr(output["labels"], "tolist") else output["labels"]
        boxes = torch.as_tensor(output["boxes"]).cpu().double().numpy().reshape(-1, 4)
        scores = torch.as_tensor(output["scores"]).cpu().double().numpy()
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(
                f"image {image_id!r}: {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels do not fit"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image {image_id!r}: boxes and scores must be finite")
        table = np.empty((len(boxes), 7))
        table[:, 0] = self.image_numbers[image_id]
        table[:, 1:5] = boxes
        table[:, 3:5] -= table[:, 1:3]
        table[:, 5] = scores
        try:
            table[:, 6] = [self._label_numbers[label] for label in labels]
        except KeyError as error:
            raise ValueError(
                f"image {image_id!r}: category id {error.args[0]!r} is not in the annotation file"
            ) from None
        return table

    def collect(self) -> tuple[np.ndarray, list[dict]]:
        """Return the predictions of all images in the order of their numbers, which decides between equal scores."""
        predictions = [self.predictions[image_id] for image_id in self.image_numbers if image_id in self.predictions]
        table = np.concatenate([np.empty((0, 7)), *(table for table, _ in predictions)])
        return table, [rle for _, masks in predictions for rle in masks]

    def _detections(self, truth: Any, kind: str, backend: str, rows: np.ndarray | None) -> Any:
        """Return the detections as a dataset of the backend."""
        if backend == "pycocotools":
            entries = ({**entry, "area": _area(entry)} for entry in self.results(kind))
            return self._to_dataset(entries, kind, backend, keys=("area", "bbox", "score"))
        table, masks = self.collect()  # many times faster than a dict per detection
        if rows is not None:
            table, masks = table[rows], [mask for mask, is_used in zip(masks, rows) if is_used]
        if kind == "bbox":
            detections = truth.load_res(table)
        else:
            detections = truth.load_res(table, segmentation=masks)
            areas = hotcoco.mask.area(masks)
            detections.update_anns(ids=np.arange(len(table)) + 1, area=areas)  # not those of the boxes
        return detections.cap_detections_per_image(self.max_dets) if self.is_lvis else detections

    def _to_dataset(self, entries: Iterable[Mapping], kind: str, backend: str, keys: Sequence[str]) -> Any:
        """Build the backend's COCO object from `keys` of annotations or detections, with all ids renumbered from 1."""
        annotations = [self._to_annotation(number, entry, kind, keys) for number, entry in enumerate(entries, 1)]
        images = []
        for image_id, number in self.image_numbers.items():
            height, width = self.sizes[image_id]
            images.append({"id": number, "height": height, "width": width, **self._lvis.get(image_id, {})})
        categories = [{"id": number, "name": str(number)} for number in self.category_numbers.values()]
        for category, frequency in zip(categories, self._frequencies or ()):
            category["frequency"] = frequency
        dataset = BACKENDS[backend].COCO()
        dataset.dataset = {"images": images, "categories": categories, "annotations": annotations}
        dataset.createIndex()
        return dataset

    def _to_annotation(self, number: int, entry: Mapping, kind: str, keys: Sequence[str]) -> dict[str, Any]:
        annotation = {key: entry[key] for key in keys if key in entry}
        if kind == "segm":
            annotation["segmentation"] = to_rle(entry["segmentation"], *self.sizes[entry["image_id"]])
        return annotation | {
            "id": number,
            "image_id": self.image_numbers[entry["image_id"]],
            "category_id": self.category_numbers[entry["category_id"]],
            "iscrowd": entry.get("iscrowd", 0),
        }


def _number(ids: Collection[Hashable]) -> dict[Hashable, int]:
    """Number ids from 1: integers in ascending order, as pycocotools takes them, others in the order of the file."""
    integers = all(isinstance(value, int) for value in ids)
    return {value: number for number, value in enumerate(sorted(ids) if integers else ids, 1)}  # type: ignore[type-var]


def _area(entry: Mapping) -> float:
    return math.prod(entry["bbox"][2:]) if "bbox" in entry else float(hotcoco.mask.area(entry["segmentation"]))
