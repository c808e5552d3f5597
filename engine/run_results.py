"""Read what a run has written: config, log, metrics, details, environment, and its detections with the data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.coco import CocoDataset
from ..errors import InputError, shorten
from ..evaluation.coco import CocoEvaluator
from ..evaluation.details import compute_details
from ..evaluation.image_ids import match_images
from ..evaluation.results import add_results, read_results
from .config import TrainConfig, load_config
from .details_pictures import KIND_NAMES
from .detection import DetectionTask
from .environment import ENVIRONMENT_FILE
from .run_log import LOG_FILE, read_log
from .task import build_task

DETAILS = {"classes", "overall", "confusion", "errors", "calibration", "curves"}
Detections = tuple[CocoEvaluator, CocoDataset]


@dataclass
class RunResults:
    """The files of a run, or of an evaluation, as far as they exist.

    Attributes:
        folder: of the run.
        config: None if it cannot be read.
        log: lines of the log.
        metrics: of the last evaluation, by name; of an interrupted run those in its log.
        details: kind -> `Details.as_dict`, after a finished evaluation; {} if a part is missing.
        environment: see `describe_environment`.
        problems: name of a file -> why it could not be read. A missing file is not listed.
    """

    folder: Path
    config: TrainConfig | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its final metrics."""
        return (self.folder / "metrics.json").exists()


def read_run(folder: Path) -> RunResults:
    """Read the folder of a run. Raises InputError if it is not one."""
    if not folder.is_dir():
        raise InputError(f"{shorten(folder)} is not a folder; expected that of a run, such as runs/NAME-1")
    if not any((folder / name).exists() for name in ("config.py", LOG_FILE, "metrics.json")):
        raise InputError(f"{shorten(folder)} has neither config.py, {LOG_FILE} nor metrics.json; expected a run")
    run = RunResults(folder)
    try:
        run.config = load_config(str(folder / "config.py")) if (folder / "config.py").exists() else None
    except InputError as error:
        run.problems["config.py"] = str(error)
    try:
        run.log = read_log(folder) if (folder / LOG_FILE).exists() else []
    except OSError as error:
        run.problems[LOG_FILE] = f"{LOG_FILE} cannot be read: {error.strerror or error}"
    run.metrics = _read_json(run, "metrics.json") or _last_metrics(run.log)
    details = _read_json(run, "details.json")
    is_complete = details.keys() <= KIND_NAMES.keys() and all(map(_is_complete, details.values()))
    run.details = details if is_complete else {}
    run.environment = _read_json(run, ENVIRONMENT_FILE)
    return run


def read_detections(run: RunResults) -> Detections:
    """Return an evaluator with the detections of a run's last evaluation, and its validation data.

    Raises:
        InputError: the run has none, or its data cannot be opened.
    """
    if run.config is None:
        raise InputError(run.problems.get("config.py", f"{shorten(run.folder)} has no config.py"))
    task = build_task(run.config)
    if not isinstance(task, DetectionTask):
        raise InputError(f"{shorten(run.folder)} is a run of the task {run.config.task}, expected detection")
    path = run.folder / "predictions.json"
    entries = read_results(path)
    dataset = task.open_split("val")
    evaluator = CocoEvaluator(dataset.annotations.content, task.tasks, task.config.eval_backend, task.config.max_dets)
    match_images(entries, dataset.annotations.content, has_ids=True, name=str(path))
    add_results(evaluator, entries, str(path))
    return evaluator, dataset


def read_details(run: RunResults) -> dict[str, Any]:
    """Return the details of a run, computed from its detections if it has none. Raises InputError if it cannot."""
    return run.details or details_of(read_detections(run)[0])


def details_of(evaluator: CocoEvaluator) -> dict[str, Any]:
    """Return the details of an evaluator's detections in the form of `details.json`."""
    return {kind: compute_details(evaluator, kind).as_dict() for kind in evaluator.kinds}


def _is_complete(content: Any) -> bool:
    """Return whether the details of a kind have every part; older versions wrote fewer."""
    return isinstance(content, Mapping) and DETAILS <= content.keys()


def _read_json(run: RunResults, name: str) -> dict[str, Any]:
    """Return the dict in a JSON file of the run, {} if there is none."""
    try:
        content = json.loads((run.folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        run.problems[name] = f"{name} cannot be read: {shorten(error, 120)}"
        return {}
    if not isinstance(content, dict):
        run.problems[name] = f"{name} does not hold a dict"
        return {}
    return content


def _last_metrics(log: list[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics of the last evaluation in a log."""
    evaluations: list[Mapping[str, Any]] = [entry for entry in log if "lr" not in entry]
    if not evaluations:
        return {}
    skipped = {"iteration"}
    return {name: value for name, value in evaluations[-1].items() if name not in skipped and value is not None}
