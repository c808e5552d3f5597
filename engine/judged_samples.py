"""Samples of a dataset with the detections of an evaluator and the verdicts on them, to be drawn."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from ..data.coco import CocoDataset
from ..data.transforms import object_mask
from ..evaluation.coco import CocoEvaluator
from ..evaluation.verdicts import DUPLICATE, FALSE, MISSED, Verdicts
from ..visualization.detections import JudgedSample

MAX_SIDE = 800  # pixels of an image that is drawn


def judged_samples(
    evaluator: CocoEvaluator,
    dataset: CocoDataset,
    verdicts: dict[Hashable, Verdicts],
    image_ids: Sequence[Hashable],
) -> Iterator[JudgedSample]:
    """Yield the readable images of `image_ids`, with a side of at most 800 pixels.

    Args:
        evaluator: with the detections.
        dataset: of the annotations that the evaluator has.
        verdicts: of `judge`; detections below its score threshold are left out.
        image_ids: ids of images.
    """
    places = {image["id"]: index for index, image in enumerate(dataset.images)}
    for image_id in image_ids:
        try:
            image = dataset.read(places[image_id])
        except ValueError:
            continue
        height, width = image.shape[-2:]
        scale = min(1.0, MAX_SIDE / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        verdict = verdicts[image_id]
        if scale < 1:
            image = TF.resize(image, list(size), antialias=True)
        yield JudgedSample(
            name=str(dataset.images[places[image_id]].get("file_name", image_id)),
            image=image,
            objects=_objects(evaluator, image_id, size),
            detections=_detections(evaluator, image_id, size, verdict.is_used),
            object_verdicts=verdict.objects,
            detection_verdicts=[word for word, is_used in zip(verdict.detections, verdict.is_used) if is_used],
        )


def _objects(evaluator: CocoEvaluator, image_id: Hashable, size: tuple[int, int]) -> dict[str, Tensor]:
    entries = [entry for entry in evaluator.annotations if entry["image_id"] == image_id]
    labels = [evaluator.category_numbers[entry["category_id"]] - 1 for entry in entries]
    segmentations = [entry["segmentation"] for entry in entries] if "segm" in evaluator.kinds else None
    return _scaled(evaluator, image_id, size, [entry["bbox"] for entry in entries], labels, segmentations)


def _detections(
    evaluator: CocoEvaluator, image_id: Hashable, size: tuple[int, int], is_used: Sequence[bool]
) -> dict[str, Tensor]:
    if image_id not in evaluator.predictions:
        return _scaled(evaluator, image_id, size, [], [], None) | {"scores": torch.zeros(0)}
    table, masks = evaluator.predictions[image_id]
    rows = [row for row, used in enumerate(is_used) if used]
    labels = (table[rows, 6].astype(int) - 1).tolist()
    segmentations = [masks[row] for row in rows] if "segm" in evaluator.kinds else None
    objects = _scaled(evaluator, image_id, size, table[rows, 1:5].tolist(), labels, segmentations)
    return objects | {"scores": torch.from_numpy(table[rows, 5])}


def _scaled(
    evaluator: CocoEvaluator,
    image_id: Hashable,
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    segmentations: Sequence[Any] | None,
) -> dict[str, Tensor]:
    """Return objects with boxes x, y, width, height and COCO masks for the image at another size."""
    original = evaluator.sizes[image_id]
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    corners *= torch.tensor([size[1] / original[1], size[0] / original[0]] * 2)
    objects = {"boxes": corners, "labels": torch.tensor(labels, dtype=torch.int64)}
    if segmentations:
        masks = [torch.from_numpy(object_mask(mask, *size, original)).bool() for mask in segmentations]
        objects["masks"] = torch.stack(masks)
    return objects


def worst_images(verdicts: dict[Hashable, Verdicts], count: int) -> list[Hashable]:
    """Return the ids of up to `count` images with an error: those of the lowest F1, of these the most errors first."""

    def rank(image_id: Hashable) -> tuple[float, int]:
        counts = verdicts[image_id].counts
        return verdicts[image_id].f1, -sum(counts[word] for word in (FALSE, DUPLICATE, MISSED))

    return sorted((image_id for image_id in verdicts if verdicts[image_id].f1 < 1), key=rank)[:count]
