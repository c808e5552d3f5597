"""Benchmarks of data. A function builds one contender and returns (run, comparable), see measure.py."""

import contextlib
import io
import subprocess
import sys
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from rich.console import Console
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from ..data.annotations import read_annotations
from ..data.coco import CocoDataset
from ..errors import InputError
from ..evaluation.coco import CocoEvaluator
from ..evaluation.tables import coco_table
from ..layers.mask_crops import MaskCrops
from ..registry import build_detector
from .networks import RunAndOutput, Settings

NUM_IMAGES, NUM_OBJECTS, NUM_DETECTIONS, NUM_CLASSES = 5000, 7, 40, 80  # like val2017
SHORT_SIDE, LONG_SIDE, BATCH_SIZE = 800, 1333, 2
IMPORTS = {
    "torch and torchvision": "import torch, torchvision",
    "detbackbones": "import detbackbones as d; d.list_backbones(), d.list_necks(), d.list_detectors()",
}


def evaluation(name: str, settings: Settings) -> RunAndOutput:
    """COCO's metrics from a detector's tensors to the printed table, most detections near an object.

    pycocotools is the backend of our evaluator.
    """
    random = np.random.default_rng(0)
    boxes = random.uniform([0, 0, 5, 5], [340, 180, 300, 300], (NUM_IMAGES, NUM_OBJECTS, 4))  # x, y, width, height
    labels = random.integers(1, NUM_CLASSES + 1, (NUM_IMAGES, NUM_OBJECTS))
    objects = zip(boxes.reshape(-1, 4).tolist(), labels.ravel().tolist())
    content = {
        "images": [dict(id=i + 1, width=640, height=480) for i in range(NUM_IMAGES)],
        "categories": [dict(id=i + 1, name=str(i + 1)) for i in range(NUM_CLASSES)],
        "annotations": [
            dict(id=i + 1, image_id=i // NUM_OBJECTS + 1, category_id=label, bbox=box, area=box[2] * box[3])
            for i, (box, label) in enumerate(objects)
        ],
    }
    outputs = {}
    for image_id, (image_boxes, image_labels) in enumerate(zip(boxes, labels), 1):
        near = random.integers(NUM_OBJECTS, size=NUM_DETECTIONS)
        detected = image_boxes[near] + random.normal(0, 6, (NUM_DETECTIONS, 4))
        detected[:, 2:] = detected[:, :2] + detected[:, 2:].clip(1)
        guess = random.integers(1, NUM_CLASSES + 1, NUM_DETECTIONS)
        detected_labels = np.where(random.random(NUM_DETECTIONS) < 0.6, image_labels[near], guess)
        output = dict(boxes=detected, scores=random.random(NUM_DETECTIONS), labels=detected_labels)
        outputs[image_id] = {key: torch.from_numpy(value) for key, value in output.items()}

    def run() -> dict[str, float]:
        evaluator = CocoEvaluator(content, ("bbox",), "hotcoco" if name == "detbackbones" else name)
        for image_id, output in outputs.items():
            evaluator.add(image_id, output)
        metrics = evaluator.compute()
        Console(file=io.StringIO()).print(coco_table(metrics))
        return metrics

    return run, dict


def annotations(name: str, settings: Settings) -> RunAndOutput:
    """An annotation file of COCO to Python objects with an index by image; ours checks every value as well."""
    if settings.data_root is None:
        raise InputError("annotations needs data_root=FOLDER with annotations/instances_train2017.json")
    path = Path(settings.data_root, "annotations/instances_train2017.json")

    def run() -> dict[int, list[dict]]:
        if name == "detbackbones":
            return read_annotations(path, None, drop_bad_objects=True, check_images=False).objects
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(path).imgToAnns

    return run, lambda objects: {"number of objects": sum(map(len, objects.values()))}


def loader(name: str, settings: Settings) -> RunAndOutput:
    """Images with objects from disk to normalised, padded batches with boxes and masks, in one thread."""
    if settings.data_root is None:
        raise InputError("loader needs data_root=FOLDER with annotations/instances_train2017.json and train2017/")
    torch.set_num_threads(1)
    path, image_dir = (Path(settings.data_root, part) for part in ("annotations/instances_train2017.json", "train2017"))
    annotations = read_annotations(path, image_dir)
    ids = sorted(annotations.objects)
    if name == "detbackbones":
        dataset = CocoDataset(annotations, training=False, short_side=SHORT_SIDE, long_side=LONG_SIDE)
        index = {image["id"]: index for index, image in enumerate(dataset.images)}
        samples = [(index[image_id], 0) for image_id in ids]
        preprocess = build_detector("mask_rcnn", backbone="resnet18").preprocess
        collate = partial(make_batch, lambda images, targets: (preprocess(images), targets))
    else:
        to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        dataset = CocoDetection(image_dir, path, transforms=to_float)
        samples = [dataset.ids.index(image_id) for image_id in ids]
        dataset = wrap_dataset_for_transforms_v2(dataset, target_keys=("boxes", "masks"))
        transform = GeneralizedRCNNTransform(SHORT_SIDE, LONG_SIDE, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        collate = partial(make_batch, transform)
    batches = DataLoader(dataset, BATCH_SIZE, sampler=samples, collate_fn=collate)
    return lambda: deque(batches, maxlen=0), lambda _: summary(batches)


def make_batch(transform, items: list[tuple]):
    """Return `transform(images, targets)` of (image, target) items."""
    images, targets = zip(*items)
    return transform(list(images), list(targets))


def summary(batches) -> dict[tuple[int, str], torch.Tensor]:
    """Return mean pixel, boxes and mask areas of every batch; resized sides may differ by a pixel."""
    values: dict[tuple[int, str], torch.Tensor] = {}
    for index, (images, targets) in enumerate(batches):
        values |= {
            (index, "pixel"): images.tensors.mean() + 3,  # away from zero, for a relative error
            (index, "boxes"): torch.cat([target["boxes"] for target in targets]),
            (index, "areas"): torch.cat([mask_areas(target["masks"]) for target in targets]),
        }
    return values


def mask_areas(masks: torch.Tensor | MaskCrops) -> torch.Tensor:
    """Return the number of pixels of each mask."""
    return (masks.dense() if isinstance(masks, MaskCrops) else masks).sum((1, 2))


def imports(name: str, settings: Settings) -> RunAndOutput:
    """A fresh interpreter that imports; ours loads every backbone, neck and detector."""
    return partial(subprocess.run, [sys.executable, "-c", IMPORTS[name]], check=True), lambda _: {}
