"""Measure the AP of test-time augmentation, ensembles and tiles.

    python -m detbackbones.benchmarks.prediction views ANNOTATIONS [IMAGES] weights=RUN [or weights=[RUN,RUN]] [keys]
    python -m detbackbones.benchmarks.prediction tiles ANNOTATIONS [IMAGES] weights=RUN [keys]

`views` scores the first run alone, with test-time augmentation, and all runs together without and with it. `tiles` puts
the images side by side on mosaics, and scores their untiled detections, put into the mosaic, and the tiled detections
of the mosaic: against the annotations, also without the objects that the seams of the mosaic cut, and the tiled ones
against the untiled ones of a score of at least 0.3.

Keys: format= and split= of the annotations; scales=(0.8,1,1.2); iou= of the merging; limit= images; for `tiles`
size=(4000,3000) of a mosaic, gap= pixels between images, seam=4 pixels beside the border of an image in which objects
and detections are left out of the second score, tile=(1024,0.2) or (3999,0.2) for the mosaic as a whole, tile_scale=,
tile_whole=, annotated=false if the classes of the annotations are not those of the run.
"""

import functools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detbackbones.data.annotations import Annotations, read_annotations
from detbackbones.data.image_inputs import ImageFile
from detbackbones.data.images import read_image
from detbackbones.engine.detections import Detections
from detbackbones.engine.predictor import TTA_SCALES, Predictor
from detbackbones.errors import InputError
from detbackbones.evaluation.coco import CocoEvaluator
from detbackbones.tools.cli import run_command

GREY = 114  # of a mosaic where it has no image
ALL = 100_000  # detections that count per mosaic, which has more objects than an image
AGREED_SCORE = 0.3


def compare_views(predictors: Mapping[str, Predictor], annotations: Annotations) -> None:
    """Print AP and time of each predictor on the annotated images."""
    for name, predictor in predictors.items():
        content = annotations.content
        evaluator = make_evaluator(predictor, content, 100, predictor.detectors[0].model.tasks)
        start = time.perf_counter()
        for entry in annotations.images:
            file = ImageFile(annotations.image_dir / entry["file_name"], entry.get("exif_orientation", 1))
            evaluator.add(entry["id"], as_output(predictor(file)))
        seconds = (time.perf_counter() - start) / len(annotations.images)
        print_metrics(name, evaluator, f"{seconds * 1000:.0f} ms per image")


def compare_tiles(
    whole: Predictor,
    tiled: Predictor,
    annotations: Annotations,
    size: tuple[int, int],
    gap: int,
    seam: int,
    annotated: bool,
) -> None:
    """Print the AP of untiled detections of the parts and of tiled detections of mosaics, and how far they agree."""
    images, objects, parts, mosaics = [], [], [], []
    at_seams: set[int] = set()
    frames: list[Tensor] = []  # of the images in each mosaic
    for number, (mosaic, places) in enumerate(make_mosaics(annotations, size, gap), 1):
        images.append({"id": number, "width": size[0], "height": size[1]})
        corners = [(x, y, x + entry["width"], y + entry["height"]) for entry, x, y in places]
        frames.append(torch.tensor(corners, dtype=torch.float32))
        found = []
        for entry, x, y in places:
            detections = whole(mosaic[:, y : y + entry["height"], x : x + entry["width"]])
            found.append(as_output(detections) | {"boxes": detections.boxes + torch.tensor([x, y, x, y])})
            for box in annotations.objects.get(entry["id"], []):
                moved = [box["bbox"][0] + x, box["bbox"][1] + y, *box["bbox"][2:]]
                objects.append(box | {"id": len(objects) + 1, "image_id": number, "bbox": moved})
                if touches_border(box["bbox"], entry, seam):
                    at_seams.add(objects[-1]["id"])
        parts.append({key: torch.cat([part[key] for part in found]) for key in ("boxes", "scores", "labels")})
        mosaics.append(as_output(tiled(mosaic)))
        counts = f"{len(parts[-1]['labels'])} detections in them, {len(mosaics[-1]['labels'])} in its tiles"
        print(f"mosaic {number}: {len(places)} images, {counts}")
    if annotated:
        truth = {"images": images, "annotations": objects, "categories": annotations.content["categories"]}
        print_metrics("images, untiled", score(whole, truth, parts))
        print_metrics("mosaic, tiled", score(whole, truth, mosaics))
        # the mosaic joins them with what is in the neighbouring image; crowd regions are not scored
        truth["annotations"] = [entry | {"iscrowd": int(entry["id"] in at_seams)} for entry in objects]
        print(f"without the {len(at_seams)} of {len(objects)} objects, and the detections, at a border of their image:")
        for name, outputs in {"images, untiled": parts, "mosaic, tiled": mosaics}.items():
            inner = [away_from_borders(output, frame, seam) for output, frame in zip(outputs, frames)]
            print_metrics(name, score(whole, truth, inner))
    categories = [{"id": key, "name": name} for key, name in zip(whole.category_ids, whole.names)]
    truth = {"images": images, "annotations": agreed(whole, parts), "categories": categories}
    print_metrics(f"tiled against untiled of score >= {AGREED_SCORE}", score(whole, truth, mosaics))


def make_mosaics(
    annotations: Annotations, size: tuple[int, int], gap: int
) -> Iterator[tuple[Tensor, list[tuple[dict, int, int]]]]:
    """Yield mosaics C x H x W with their images: (entry of the annotation file, left, top). Rows are filled in turn."""
    width, height = size
    mosaic, places = torch.full((3, height, width), GREY, dtype=torch.uint8), []
    x = y = row = 0
    for entry in annotations.images:
        if x + entry["width"] > width:
            x, y, row = 0, y + row + gap, 0
        if y + entry["height"] > height:
            yield mosaic, places
            mosaic, places = torch.full_like(mosaic, GREY), []
            x = y = row = 0
        image = read_image(annotations.image_dir / entry["file_name"], 3, None, entry.get("exif_orientation", 1))
        mosaic[:, y : y + image.shape[1], x : x + image.shape[2]] = image
        places.append((entry, x, y))
        x, row = x + entry["width"] + gap, max(row, entry["height"])
    if places:
        yield mosaic, places


def touches_border(box: Sequence[float], image: Mapping[str, Any], seam: int) -> bool:
    """Return whether a box (x, y, width, height) comes nearer than `seam` pixels to the border of its image."""
    x, y, width, height = box
    return min(x, y, image["width"] - x - width, image["height"] - y - height) < seam


def away_from_borders(output: Mapping[str, Tensor], frames: Tensor, seam: int) -> dict[str, Tensor]:
    """Return the detections inside one of the images, at least `seam` pixels from its border; `frames` M x 4 xyxy."""
    distances = output["boxes"][:, None] - frames
    distances[..., 2:] *= -1
    inside = (distances.amin(2) >= seam).any(1)
    return {key: values[inside] for key, values in output.items() if key != "masks"}


def agreed(predictor: Predictor, outputs: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Return the confident detections of each image as annotations."""
    entries: list[dict[str, Any]] = []
    for number, output in enumerate(outputs, 1):
        keep = output["scores"] >= AGREED_SCORE
        boxes = output["boxes"][keep].double()
        boxes[:, 2:] -= boxes[:, :2]
        for box, label in zip(boxes.tolist(), output["labels"][keep].tolist()):
            category = {"image_id": number, "category_id": predictor.category_ids[label]}
            entries.append({"id": len(entries) + 1, **category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return entries


def score(predictor: Predictor, content: Mapping[str, Any], outputs: Sequence[Mapping[str, Tensor]]) -> CocoEvaluator:
    """Return an evaluator with the boxes of images 1, 2, ..."""
    evaluator = make_evaluator(predictor, content, ALL, ("bbox",))
    for number, output in enumerate(outputs, 1):
        evaluator.add(number, output)
    return evaluator


def make_evaluator(
    predictor: Predictor, content: Mapping[str, Any], max_dets: int, kinds: Sequence[str]
) -> CocoEvaluator:
    """Return an evaluator that takes the labels of a predictor, by the names of the classes."""
    ids = {category["name"]: category["id"] for category in content["categories"]}
    return CocoEvaluator(content, kinds, max_dets=max_dets, category_ids=[ids[name] for name in predictor.names])


def as_output(detections: Detections) -> dict[str, Tensor]:
    """Return detections as a detector returns them."""
    output = {"boxes": detections.boxes, "scores": detections.scores, "labels": detections.labels}
    return output if detections.masks is None else output | {"masks": detections.masks}


def print_metrics(name: str, evaluator: CocoEvaluator, note: str = "") -> None:
    """Print a line with AP, AP50 and AP75 in points."""
    metrics = evaluator.compute()
    texts = [
        f"{kind} " + " ".join(f"{key} {100 * metrics[f'{kind}/{key}']:.1f}" for key in ("AP", "AP50", "AP75"))
        for kind in evaluator.kinds
    ]
    print(f"{name:<40} {'   '.join(texts)}   {note}", flush=True)


def measure(names: Sequence[str], values: Mapping[str, Any]) -> None:
    """Run a measurement."""
    values = dict(values)
    if len(names) not in (2, 3) or names[0] not in ("views", "tiles") or "weights" not in values:
        raise InputError("expected views or tiles, ANNOTATIONS, perhaps IMAGES, and weights=RUN")
    annotations = read_annotations(
        Path(names[1]),
        Path(names[2]) if len(names) == 3 else None,
        format=values.pop("format", None),
        split=values.pop("split", "val"),
        masks=None,
        drop_bad_objects=True,
    )
    if limit := values.pop("limit", None):
        annotations.content["images"] = annotations.images[:limit]
        ids = {entry["id"] for entry in annotations.images}
        objects = annotations.content["annotations"]
        annotations.content["annotations"] = [entry for entry in objects if entry["image_id"] in ids]
    weights = values.pop("weights").strip("[]").split(",")
    if names[0] == "views":
        scales = values.pop("scales", TTA_SCALES)
        choices = {"one run": (weights[0], False), "one run, TTA": (weights[0], scales)}
        if len(weights) > 1:
            choices |= {f"{len(weights)} runs": (weights, False), f"{len(weights)} runs, TTA": (weights, scales)}
        predictors = {name: Predictor(source, tta=tta) for name, (source, tta) in choices.items()}
        compare_views(predictors, annotations)
        return
    defaults = {"size": (4000, 3000), "gap": 0, "seam": 4, "annotated": True}
    size, gap, seam, annotated = (values.pop(*pair) for pair in defaults.items())
    tiled = Predictor(weights[0], **({"tile": (1024, 0.2)} | values))
    compare_tiles(Predictor(weights[0]), tiled, annotations, size, gap, seam, annotated)


main = functools.partial(run_command, measure, __doc__)


if __name__ == "__main__":
    sys.exit(main())
