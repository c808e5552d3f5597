"""Pictures of a config's training data and of a run's results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..data.coco import Unreadable
from ..errors import InputError, check_known, shorten
from ..evaluation.details import compute_details
from ..evaluation.verdicts import judge
from ..visualization.detections import save_judged_samples
from ..visualization.learning_curves import save_learning_curves
from ..visualization.samples import save_samples
from .config import Positive, find_config, load_config
from .details_pictures import draw_calibration, draw_confusion, draw_pr_curves
from .detection import DetectionTask
from .judged_samples import judged_samples, worst_images
from .network_pictures import PictureKeys
from .run_results import read_details, read_detections, read_run
from .task import build_task

DEFAULT_SCORE = 0.5


class DataKeys(PictureKeys):
    """Keys of the sheet of training samples."""

    count: Positive = Field(default=12, description="Number of samples.")
    sample_seed: int = Field(default=0, description="Chooses images and their augmentation.")


class ErrorKeys(PictureKeys):
    """Keys of the picture of errors."""

    count: Positive = Field(default=8, description="Number of images.")
    images: Literal["worst", "first"] = Field(
        default="worst", description="Which images: the worst have the lowest F1; first: in the order of the data."
    )
    kind: Literal["bbox", "segm"] | None = Field(
        default=None, description="What is judged, boxes or masks; none: masks if there are any."
    )
    score: float | None = Field(
        default=None, ge=0, le=1, description="Score that a detection needs; none: the one with the best F1."
    )


def draw_data(name: str, keys: DataKeys, overrides: Mapping[str, Any]) -> list[str]:
    """Draw training samples of a config after augmentation; return lines to print."""
    config = load_config(find_config(name), overrides)
    task = build_task(config)
    if not isinstance(task, DetectionTask):
        raise InputError(f"{shorten(name)} is a config of the task {config.task}, expected detection")
    dataset = task.open_split("train")
    random = np.random.default_rng(keys.sample_seed)
    samples = []
    for index in random.permutation(len(dataset))[: keys.count].tolist():
        item = dataset[index, int(random.integers(2**63))]
        if isinstance(item, Unreadable):
            continue
        image, target = item
        samples.append((image, target | ({"masks": target["masks"].dense()} if task.masks else {})))
    if not samples:
        raise InputError(f"no image of {shorten(dataset.annotations.path)} can be read")
    save_samples(Path(keys.out), samples, dataset.names)
    return []


def draw_errors(name: str, keys: ErrorKeys, _: Mapping[str, Any]) -> list[str]:
    """Draw detections of a run beside the ground truth, coloured by verdict; return lines to print."""
    run = read_run(Path(name))
    evaluator, dataset = read_detections(run)
    kind = keys.kind or evaluator.kinds[-1]
    check_known("kind", evaluator.kinds, kind)
    score = keys.score
    if score is None:
        overall = run.details[kind]["overall"] if kind in run.details else compute_details(evaluator, kind).overall
        best = overall["threshold"]
        score = DEFAULT_SCORE if best is None else best
    verdicts = judge(evaluator, kind, score)
    chosen = worst_images(verdicts, keys.count) if keys.images == "worst" else list(verdicts)[: keys.count]
    if not chosen:
        return ["no image has an error; images=first draws the first ones"]
    samples = list(judged_samples(evaluator, dataset, verdicts, chosen))
    if not samples:
        raise InputError(f"no image of {shorten(dataset.annotations.path)} can be read")
    save_judged_samples(Path(keys.out), samples, evaluator.category_names, score)
    return []


def draw_learning_curves(name: str, keys: PictureKeys, _: Mapping[str, Any]) -> list[str]:
    """Draw losses, learning rate and metrics of a run."""
    run = read_run(Path(name))
    if not run.log:
        raise InputError(f"{shorten(name)} has no log of a training")
    save_learning_curves(Path(keys.out), run.log)
    return []


def draw_pr(name: str, keys: PictureKeys, _: Mapping[str, Any]) -> list[str]:
    """Draw the PR curves of a run."""
    draw_pr_curves(Path(keys.out), read_details(read_run(Path(name))))
    return []


def draw_matrix(name: str, keys: PictureKeys, _: Mapping[str, Any]) -> list[str]:
    """Draw the confusion matrices of a run."""
    draw_confusion(Path(keys.out), read_details(read_run(Path(name))))
    return []


def draw_reliability(name: str, keys: PictureKeys, _: Mapping[str, Any]) -> list[str]:
    """Draw the reliability diagrams of a run."""
    draw_calibration(Path(keys.out), read_details(read_run(Path(name))))
    return []
