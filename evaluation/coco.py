"""The 12 COCO numbers for boxes and masks, equal to pycocotools to the last digit whichever backend computes them."""

import contextlib
import gc
import io
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from .rle import encode_masks

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KINDS = ("bbox", "segm")


def _backend(name: str):
    """(ground-truth class, evaluation class) of a library that keeps pycocotools' interface."""
    if name == "pycocotools":
        return COCO, COCOeval
    if name == "faster_coco_eval":  # same numbers, compiled matching and accumulation
        import faster_coco_eval

        return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
    raise ValueError(f"unknown backend {name!r}; known: faster_coco_eval, pycocotools")


@contextlib.contextmanager
def _no_garbage_collection():
    """Hundreds of thousands of small dicts, none of them garbage: looking for cycles took a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CocoEvaluator:
    """Collects detections image by image, then scores them against a COCO annotation file.

    Args:
        content: the parsed annotation file (images, annotations, categories); it is not changed.
        kinds: "bbox", "segm" or both.
        backend: "faster_coco_eval" or "pycocotools".

    Every image of the file counts, also one that no detection was given for.
    """

    def __init__(self, content: Mapping, kinds: Sequence[str] = KINDS, backend: str = "faster_coco_eval"):
        self.kinds = tuple(kinds)
        self._truth_class, self._eval_class = _backend(backend)
        self._content = content
        self._images = {image["id"] for image in content["images"]}
        self._categories = {category["id"] for category in content["categories"]}
        self.predictions: dict[int, list[dict]] = {}

    def update(self, predictions: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Add image id -> {"boxes" N x 4 xyxy px of the image on disk, "scores" N, "labels" N category ids,
        "masks" N x H x W bool where masks are scored}. An image given twice counts once, the last time.

        Raises ValueError for an image or category that the annotation file does not have, or missing masks.
        """
        for image_id, found in predictions.items():
            if image_id not in self._images:
                raise ValueError(f"no image has id {image_id}")
            labels = [int(v) for v in found["labels"]]
            unknown = set(labels) - self._categories
            if unknown:
                raise ValueError(f"no category has id {min(unknown)} (image {image_id})")
            if "segm" in self.kinds and "masks" not in found:
                raise ValueError(f"masks are scored, but image {image_id} has none")
            boxes = torch.as_tensor(found["boxes"]).double().reshape(-1, 4)
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
            scores = torch.as_tensor(found["scores"]).double().tolist()
            rles = encode_masks(torch.as_tensor(found["masks"])) if "segm" in self.kinds else [None] * len(boxes)
            self.predictions[image_id] = [
                {"image_id": image_id, "category_id": label, "score": score, "bbox": box, "segmentation": rle}
                for label, score, box, rle in zip(labels, scores, boxes, rles)
            ]

    def merge(self, predictions: Mapping[int, list[dict]]) -> None:
        """Add the `predictions` of an evaluator in another process."""
        self.predictions.update(predictions)

    def results(self, kind: str) -> list[dict]:
        """Detections as COCO result entries of one kind.

        A mask result carries no bbox: with one, the area ranges would be those of boxes.
        """
        keep = {"bbox": "bbox", "segm": "segmentation"}[kind]
        return [{key: entry[key] for key in ("image_id", "category_id", "score", keep)}
                for image_id in sorted(self.predictions) for entry in self.predictions[image_id]]  # fmt: skip

    def compute(self) -> dict[str, dict[str, float]]:
        """{"bbox": {"AP": ..., 12 names}, "segm": ...}; -1 where the file has no ground truth of that size."""
        with contextlib.redirect_stdout(io.StringIO()), _no_garbage_collection():
            truth = self._truth_class()
            entries = [{"iscrowd": 0, **entry} for entry in self._content["annotations"]]  # scoring writes into them
            truth.dataset = {"info": {}, **self._content, "annotations": entries}
            truth.createIndex()
            return {kind: self._score(truth, kind) for kind in self.kinds}

    def _score(self, truth, kind: str) -> dict[str, float]:
        # not `loadRes`: it refuses an empty list, and makes a polygon for each box, which nobody reads
        found, results = self._truth_class(), self.results(kind)
        for number, entry in enumerate(results, 1):
            area = entry["bbox"][2] * entry["bbox"][3] if kind == "bbox" else coco_mask.area(entry["segmentation"])
            entry.update(id=number, area=area, iscrowd=0)
        found.dataset = {**truth.dataset, "annotations": results}
        found.createIndex()
        scorer = self._eval_class(truth, found, kind)
        scorer.evaluate()
        scorer.accumulate()
        if self._eval_class is not COCOeval:
            _count_as_pycocotools(scorer.eval["precision"], truth, found, kind)
        reference = COCOeval(iouType=kind)
        reference.params, reference.eval = scorer.params, scorer.eval
        reference.summarize()
        return dict(zip(METRIC_NAMES, map(float, reference.stats)))


def _count_as_pycocotools(precision: np.ndarray, truth, found, kind: str) -> None:
    """Make a compiled backend's precision (IoU x recall x class x area x detections) pycocotools' own, in place.

    pycocotools adds the spacing of 1.0 to the number of detections. That changes a precision in one case alone: the
    first counted detection is right and the second is not, which gives 1 / (1 + 2.2e-16) instead of 1. How far along
    the recall axis the ones go tells whether the second was right too; where a class has so many objects that
    recall's 101 steps cannot tell, the class's best detections are matched once more by pycocotools.
    """
    scorer = COCOeval(truth, found, kind)
    p = scorer.params
    almost_one = 1 / (1 + np.spacing(1))
    areas = [entry["area"] for entry in truth.dataset["annotations"]]
    counted = [not entry["iscrowd"] for entry in truth.dataset["annotations"]]
    classes = np.array([entry["category_id"] for entry in truth.dataset["annotations"]])
    areas, counted = np.array(areas), np.array(counted, dtype=bool)
    of_class: dict[int, list[dict]] = {category: [] for category in p.catIds}
    for entry in found.dataset["annotations"]:
        of_class[entry["category_id"]].append(entry)
    for k, category in enumerate(p.catIds):
        rematched = None
        for a, (low, high) in enumerate(p.areaRng):
            objects = int((counted & (classes == category) & (areas >= low) & (areas <= high)).sum())
            if not objects:
                continue
            one, two = ((p.recThrs <= right / objects).sum() for right in (1, min(2, objects)))
            for t in range(len(p.iouThrs)):
                column = precision[t, :, k, a, -1]
                ones = int((column == 1).sum())
                if ones == 0 or ones > one:
                    continue
                if one == two and objects > 1:
                    rematched = rematched or _BestDetections(truth, found, kind, category, of_class[category])
                    if rematched.second_is_right(a, t):
                        continue
                column[column == 1] = almost_one


class _BestDetections:
    """pycocotools' matching of one class's best detections, in as few images as tell whether the second is right."""

    def __init__(self, truth, found, kind: str, category: int, entries: list[dict]):
        self.truth, self.found, self.kind, self.category = truth, found, kind, category
        self.entries = sorted(entries, key=itemgetter("score"), reverse=True)
        self._match(4)

    def _match(self, number: int) -> None:
        self.scorer = COCOeval(iouType=self.kind)  # given the data here, it would list all images first
        self.scorer.cocoGt, self.scorer.cocoDt = self.truth, self.found
        p = self.scorer.params
        p.catIds, p.imgIds = [self.category], sorted({entry["image_id"] for entry in self.entries[:number]})
        self.scorer._prepare()
        self.scorer.ious = {(image, self.category): self.scorer.computeIoU(image, self.category) for image in p.imgIds}
        self.number, self.areas = number, {}

    def _images(self, area: int) -> list[dict]:
        """What pycocotools' `evaluate` keeps of every image, for this area range alone: mostly one is asked for."""
        if area not in self.areas:
            p = self.scorer.params
            found = [self.scorer.evaluateImg(image, self.category, p.areaRng[area], p.maxDets[-1]) for image in p.imgIds]
            self.areas[area] = [image for image in found if image is not None]
        return self.areas[area]

    def second_is_right(self, area: int, threshold: int) -> bool:
        """Of the detections that count in an area range (an index), at an IoU threshold (an index)."""
        while True:
            images = self._images(area)
            scores = np.concatenate([e["dtScores"] for e in images])
            ignored = np.concatenate([e["dtIgnore"][threshold] for e in images])
            order = [i for i in np.argsort(-scores, kind="mergesort") if not ignored[i]][:2]
            last = len(self.entries) <= self.number
            if last or (len(order) == 2 and scores[order[1]] > self.entries[self.number - 1]["score"]):
                break
            self._match(8 * self.number)  # an image that was left out may hold the second
        matched = np.concatenate([e["dtMatches"][threshold] for e in images])
        return len(order) == 2 and bool(matched[order[1]])


def coco_table(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """The 12 numbers of each kind, in points (100 = perfect); a dash where there is nothing to find."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits 80 columns
    table.add_column("COCO")
    for name in METRIC_NAMES:
        table.add_column(name, justify="right")
    for kind, values in metrics.items():
        table.add_row(kind, *("-" if values[n] < 0 else f"{100 * values[n]:.1f}" for n in METRIC_NAMES))
    return table
