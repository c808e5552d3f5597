"""Random annotation files with detections."""

import contextlib
import io
import json

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def random_ellipses(random, count, height, width):
    """count x height x width bool, from small to large by COCO's limits."""
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        centre_y, centre_x = random.uniform(0.1, 0.9, 2) * (height, width)
        radius_y, radius_x = random.choice([8, 30, 90]) * random.uniform(0.6, 1.4, 2)
        mask[:] = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1
    return masks


def box_of(mask):
    ys, xs = np.nonzero(mask)
    return [float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)]


def random_problem(seed, images=5):
    """An annotation file with ids from 1, and detections: moved, doubled, misnamed, missing, on crowds, tied."""
    random = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": str(i)} for i in range(1, 5)]}
    predictions = {}
    for image_id in range(1, images + 1):
        height, width = random.integers(150, 260, 2).tolist()
        content["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width})
        masks = random_ellipses(random, random.integers(0, 6), height, width)
        labels = random.integers(1, 4, len(masks))
        for mask, label in zip(masks, labels, strict=True):
            x1, y1, x2, y2 = box_of(mask)
            rle = coco_mask.encode(np.asfortranarray(mask))
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": int(label)}
            annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(mask.sum())}
            annotation |= {"iscrowd": int(random.random() < 0.15)}
            annotation |= {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}
            content["annotations"].append(annotation)
        if image_id == 4:
            continue  # an image without detections
        copies = random.integers(len(masks), size=random.integers(30)) if len(masks) else np.zeros(0, int)
        shifts = [np.roll(masks[i], random.integers(-9, 10, 2), (0, 1)) for i in copies]
        found = np.stack([*shifts, *random_ellipses(random, 2, height, width)])
        names = np.concatenate([labels[copies], random.integers(1, 5, 2)])
        names = np.where(random.random(len(found)) < 0.85, names, random.integers(1, 5, len(found)))
        predictions[image_id] = {
            "boxes": torch.tensor([box_of(mask) for mask in found]),
            "scores": torch.from_numpy(np.round(random.random(len(found)), 1 if seed % 2 else 6)),
            "labels": torch.from_numpy(names.astype(int)),
            "masks": torch.from_numpy(found),
        }
    return content, predictions


def fill(evaluator, predictions):
    """Give an evaluator the detections of all images; return it."""
    for image_id, output in predictions.items():
        evaluator.add(image_id, output)
    return evaluator


def random_polygons(seed, images=4, objects=7):
    """An annotation file with polygons, some of two parts, and crowd regions as uncompressed RLE."""
    random = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 5)]}
    for image_id in range(1, images + 1):
        height, width = random.integers(80, 200, 2).tolist()
        content["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width})
        for _ in range(objects):
            polygons = [_star(random, height, width) for _ in range(random.integers(1, 3))]
            points = np.concatenate(polygons).reshape(-1, 2)
            (x, y), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "iscrowd": 0}
            annotation |= {"category_id": int(random.integers(1, 4)), "bbox": [x, y, right - x, bottom - y]}
            content["annotations"].append(annotation | {"segmentation": polygons, "area": float(coco_mask.area(rle))})
        crowd = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": 2, "iscrowd": 1}
        runs = {"size": [height, width], "counts": [0, height * 40, height * (width - 40)]}
        content["annotations"].append(crowd | {"bbox": [0, 0, 40, height], "segmentation": runs, "area": 40 * height})
    return content


def _star(random, height, width):
    """A polygon [x1, y1, x2, y2, ...] around a point, with fractions of pixels, within the image."""
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(5, 12)))
    radii = random.uniform(0.5, 1, len(angles)) * random.choice([6, 20, 45])
    centre = random.uniform(0.2, 0.8, (2, 1)) * [[width], [height]]
    points = (centre + radii * np.stack([np.cos(angles), np.sin(angles)])).T
    return points.clip(0, [width, height]).round(2).ravel().tolist()


def true_detections(content):
    """The objects of an annotation file without crowd regions, as detections."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    predictions = {}
    for image_id, size in sizes.items():
        objects = [a for a in content["annotations"] if a["image_id"] == image_id and not a.get("iscrowd")]
        boxes = torch.tensor([entry["bbox"] for entry in objects], dtype=torch.float64).reshape(-1, 4)
        predictions[image_id] = {
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            "scores": torch.linspace(0.5, 0.9, len(objects)),
            "labels": [entry["category_id"] for entry in objects],
            "masks": torch.from_numpy(np.stack([_to_mask(entry["segmentation"], *size) for entry in objects]))
            if objects
            else torch.zeros(0, *size, dtype=torch.bool),
        }
    return predictions


def pycocotools_scorer(content, results, kind, max_dets=(1, 10, 100)):
    """pycocotools' own scorer of results, accumulated."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        scorer = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        scorer.params.maxDets = list(max_dets)
        scorer.evaluate()
        scorer.accumulate()
    return scorer


def pycocotools_stats(content, results, kind):
    """The 12 numbers of pycocotools."""
    scorer = pycocotools_scorer(content, results, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        scorer.summarize()
    return scorer.stats.tolist()


def rename_ids(content, rename, predictions=None):
    """Change every id of an annotation file, in place; return predictions with these ids."""
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image |= {key: [rename(value) for value in image[key]]} if key in image else {}
    for section in ("images", "annotations", "categories"):
        for entry in content[section]:
            entry.update({key: rename(value) for key, value in entry.items() if key == "id" or key.endswith("_id")})
    return {
        rename(image_id): output | {"labels": [rename(label) for label in output["labels"].tolist()]}
        for image_id, output in (predictions or {}).items()
    }


def _to_mask(segmentation, height, width):
    """The pixels of a segmentation, by pycocotools."""
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    merged = coco_mask.merge(segmentation) if isinstance(segmentation, list) else segmentation
    return coco_mask.decode(merged).astype(bool)
