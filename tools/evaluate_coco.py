"""Score detections in COCO results files against annotations, without a model.

    python tools/evaluate_coco.py ANNOTATIONS RESULTS [OTHER_RESULTS] [key=value ...]
    detbackbones evaluate ANNOTATIONS RESULTS [OTHER_RESULTS] [key=value ...]

    iou=bbox,segm             boxes, masks or both; none: what the results have
    out=FOLDER                writes metrics.json, per_class.csv, details.json and pictures; with two results files
                              comparison.json
    max_dets=100              detections that count per image and class; none: 100, for LVIS 300 per image
    backend=hotcoco           or pycocotools, which has the same metrics and is far slower
    drop_bad_objects=false    leave out annotations with an unusable box or mask
    format=none               coco, voc, yolo, cvat or lvis; none: recognised
    split=val                 or train, for formats whose path holds several splits
    image_dir=FOLDER          of the images, if the annotations lack width and height
    samples=1000              of the bootstrap over images, from which a comparison takes its 95% intervals

Two results files are compared metric by metric; the difference is that of OTHER_RESULTS to RESULTS. An LVIS file is
scored by LVIS's rule. Formats other than COCO's have no image ids: there "file_name" of the entries names the image, or
image_id counts the images from 1.
"""

import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveInt

from detbackbones.data.annotations import COCO_FORMATS, read_annotations
from detbackbones.data.formats import recognise_format
from detbackbones.engine.coco_results import save_details, summarize_details
from detbackbones.engine.console import plain_console
from detbackbones.engine.detection_config import Format
from detbackbones.engine.schema import validate
from detbackbones.engine.task import Split
from detbackbones.errors import InputError, check_known, shorten
from detbackbones.evaluation.coco import KINDS, CocoEvaluator
from detbackbones.evaluation.comparison import compare
from detbackbones.evaluation.image_ids import match_images
from detbackbones.evaluation.results import add_results, kinds_of, read_results
from detbackbones.evaluation.tables import coco_table, comparison_table
from detbackbones.tools.cli import run_command

OUTPUTS = ("metrics.json", "comparison.json")


class Settings(BaseModel):
    """The keys of the program."""

    iou: str | None = None
    out: str | None = None
    max_dets: PositiveInt | None = None
    backend: Literal["hotcoco", "pycocotools"] = "hotcoco"
    drop_bad_objects: bool = False
    format: Format | None = None
    split: Split = "val"
    image_dir: str | None = None
    samples: Annotated[int, Field(ge=0)] = 1000


def evaluate(names: Sequence[str], pairs: Mapping[str, Any]) -> None:
    """Score one results file, or compare two."""
    settings = validate(Settings, pairs)
    if len(names) not in (2, 3):
        raise InputError(f"expected ANNOTATIONS, RESULTS and perhaps OTHER_RESULTS, got {len(names)} names")
    if settings.out == "":
        raise InputError("out= is empty, expected a folder; leave it out to print only")
    folder = None if settings.out is None else Path(settings.out)
    if folder is not None:
        check_folder(folder)
    evaluators = load(Path(names[0]), names[1:], settings)
    console = plain_console()
    if len(evaluators) == 2:
        comparison = compare(evaluators[0], evaluators[1], settings.samples)
        for kind, rows in comparison.items():
            console.print(comparison_table(kind, rows, [Path(name).stem for name in names[1:]]))
        write(folder, "comparison.json", {"results": names[1:], **comparison})
        return
    metrics = evaluators[0].compute()
    console.print(coco_table(metrics))
    write(folder, "metrics.json", metrics)
    console.print(summarize_details(evaluators[0]) if folder is None else save_details(evaluators[0], folder))
    if folder is not None:
        console.print(f"results in {folder}")


def load(path: Path, names: Sequence[str], settings: Settings) -> list[CocoEvaluator]:
    """Return an evaluator with the detections of each results file."""
    results = [read_results(Path(name)) for name in names]
    if settings.iou is None:
        found = [kinds_of(entries, name) for name, entries in zip(names, results, strict=True)]
        kinds = tuple(kind for kind in KINDS if all(kind in of_file for of_file in found))
        if not kinds:
            raise InputError(f"{' and '.join(map(shorten, names))} have neither boxes nor masks in common")
    else:
        kinds = tuple(dict.fromkeys(settings.iou.split(",")))
        check_known("iou", KINDS, *kinds)
    annotations = read_annotations(
        path,
        None if settings.image_dir is None else Path(settings.image_dir),
        format=settings.format,
        split=settings.split,
        masks="segm" in kinds,
        drop_bad_objects=settings.drop_bad_objects,
        check_images=settings.image_dir is not None,
    )
    for line in annotations.report.lines():
        plain_console().print(f"{path}: {line}")
    evaluators = []
    has_ids = (settings.format or recognise_format(path)) in COCO_FORMATS
    for name, entries in zip(names, results, strict=True):
        if meaning := match_images(entries, annotations.content, has_ids, name):
            plain_console().print(f"{name}: {meaning}")
        evaluator = CocoEvaluator(annotations.content, kinds, settings.backend, settings.max_dets)
        add_results(evaluator, entries, name)
        evaluators.append(evaluator)
    return evaluators


def check_folder(folder: Path) -> None:
    """Raise InputError if the folder cannot be made, or holds results already."""
    parent = next(path for path in [folder, *folder.parents] if os.path.exists(path))
    if not parent.is_dir():
        raise InputError(f"out={shorten(folder)}: {shorten(parent)} is a file, expected a folder")
    for name in OUTPUTS:
        if (folder / name).exists():
            raise InputError(f"out={shorten(folder)} already has {name}; choose another folder")


def write(folder: Path | None, name: str, content: Any) -> None:
    """Write JSON into the folder, if there is one."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"out={shorten(folder)} cannot be written: {error.strerror}") from None


main = functools.partial(run_command, evaluate, __doc__)


if __name__ == "__main__":
    sys.exit(main())
