"""The works about data: scoring detections, and loading images. Each gives its contenders, see works.py."""

import contextlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as TF

from ..data.annotations import Annotations, read_annotations
from ..data.coco import CocoDataset
from ..evaluation.coco import METRIC_NAMES, CocoEvaluator
from ..registry import build_detector
from .settings import Built, Settings

IMAGES, TRUTHS, KINDS, FOUND, CATEGORIES = 5000, 7, 3, 40, 80  # val2017: 36,781 objects, of 2.9 categories an image
SHORT_SIDE, LONG_SIDE, BATCH = 800, 1333, 2


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """count x 4 xywh inside 640 x 480."""
    size = random.uniform(5, 300, (count, 2))
    return np.concatenate([random.uniform(0, 1, (count, 2)) * (np.array([640, 480]) - size), size], 1)


def made_up_detections() -> tuple[dict, dict[int, dict[str, Tensor]]]:
    """An annotation file and FOUND boxes an image, most of them near an object: image id -> boxes xyxy, scores, labels."""
    random = np.random.default_rng(0)
    content = {"info": {}, "images": [], "annotations": [], "categories": [{"id": i + 1, "name": str(i)} for i in range(CATEGORIES)]}
    detections = {}
    for image in range(1, IMAGES + 1):
        content["images"].append({"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"})
        boxes = random_boxes(random, TRUTHS)
        labels = random.choice(random.integers(1, CATEGORIES + 1, KINDS), TRUTHS)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": image, "category_id": label, "bbox": box,
                                           "area": box[2] * box[3], "iscrowd": int(random.random() < 0.01)})  # fmt: skip
        near = random.integers(TRUTHS, size=FOUND)
        found = boxes[near] + random.normal(0, 6, (FOUND, 4)) * (random.random((FOUND, 1)) < 0.7)
        found[:, 2:] = found[:, 2:].clip(1)
        found[:, 2:] += found[:, :2]
        own = np.where(random.random(FOUND) < 0.6, labels[near], random.integers(1, CATEGORIES + 1, FOUND))
        scores = random.random(FOUND)
        detections[image] = {"boxes": torch.from_numpy(found), "scores": torch.from_numpy(scores), "labels": torch.from_numpy(own)}
    return content, detections


def evaluation(settings: Settings) -> dict[str, Callable[[], Built]]:
    """Scoring alone, the detections already collected as each library wants them."""
    content, detections = made_up_detections()

    def reference() -> Built:
        results = [{"image_id": image, "category_id": int(label), "score": float(score), "bbox": [x1, y1, x2 - x1, y2 - y1]}
                   for image, found in detections.items()
                   for (x1, y1, x2, y2), score, label in zip(found["boxes"].tolist(), found["scores"], found["labels"])]  # fmt: skip

        def run() -> dict[str, float]:
            with contextlib.redirect_stdout(io.StringIO()):
                truth = COCO()
                truth.dataset = content
                truth.createIndex()
                scorer = COCOeval(truth, truth.loadRes(results), "bbox")
                scorer.evaluate()
                scorer.accumulate()
                scorer.summarize()
            return dict(zip(METRIC_NAMES, map(float, scorer.stats)))

        return run, dict

    def ours() -> Built:
        evaluator = CocoEvaluator(content, ("bbox",))
        evaluator.update(detections)
        return lambda: evaluator.compute()["bbox"], dict

    return {"pycocotools": reference, "detbackbones": ours}


def reference_pipeline(annotations: Annotations) -> Iterator[tuple]:
    """What torchvision's references/detection does: PIL, masks at the image's size, floats, GeneralizedRCNNTransform."""
    transform = GeneralizedRCNNTransform(SHORT_SIDE, LONG_SIDE, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    infos = [info for info in annotations.images if any(not o.get("iscrowd", 0) for o in annotations.objects.get(info["id"], ()))]

    def item(info: dict) -> tuple[Tensor, dict]:
        image = Image.open(annotations.image_dir / info["file_name"]).convert("RGB")
        objects = [o for o in annotations.objects[info["id"]] if not o.get("iscrowd", 0)]
        boxes = torch.tensor([o["bbox"] for o in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        size = (info["height"], info["width"])
        masks = [torch.as_tensor(coco_mask.decode(coco_mask.frPyObjects(o["segmentation"], *size)).any(2)) for o in objects]
        masks = torch.stack(masks).to(torch.uint8)
        return TF.to_dtype(TF.pil_to_tensor(image), torch.float32, scale=True), {"boxes": boxes, "masks": masks}

    for start in range(0, len(infos), BATCH):
        images, targets = zip(*(item(info) for info in infos[start : start + BATCH]))
        yield transform(list(images), list(targets))


def own_pipeline(dataset: CocoDataset, detector) -> Iterator[tuple]:
    for start in range(0, len(dataset), BATCH):
        images, targets = zip(*(dataset[index, 0] for index in range(start, min(start + BATCH, len(dataset)))))
        yield detector.batch(images), targets


def loader(settings: Settings) -> dict[str, Callable[[], Built]]:
    """Every image with an object of `data_root`'s training half, in the order of the file; one thread."""
    torch.set_num_threads(1)
    root = Path(settings.data_root)
    annotations = read_annotations(root / "annotations/instances_train2017.json", root / "train2017", True)

    def build(batches: Callable[[], Iterator[tuple]]) -> Built:
        return lambda: deque(batches(), maxlen=0), lambda _: [summary(*batch) for batch in batches()]

    def ours() -> Built:
        dataset = CocoDataset(annotations, training=True, short_side=SHORT_SIDE, long_side=LONG_SIDE, flip=0.0)
        return build(partial(own_pipeline, dataset, build_detector("mask_rcnn", backbone="resnet18")))

    return {"torchvision's reference": lambda: build(partial(reference_pipeline, annotations)), "detbackbones": ours}


def summary(images: ImageList, targets: Sequence[dict]) -> list[dict[str, Tensor]]:
    """Of every image the size, boxes, mask areas and mean colour. Sizes may differ by the rounding of a pixel."""
    seen = []
    for pixels, (height, width), target in zip(images.tensors, images.image_sizes, targets):
        colour = pixels[:, :height, :width].mean((1, 2)) + 3  # away from zero, for a relative error
        seen.append({"size": torch.tensor([height, width]), "boxes": target["boxes"], "areas": target["masks"].sum((1, 2)),
                     "colour": colour})  # fmt: skip
    return seen
