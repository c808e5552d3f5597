"""One HTML page on a run: its curves, numbers, errors, worst images, config and environment."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, RunError, shorten
from ..evaluation.tables import points
from ..visualization.report import Section, render_report
from .report_sections import (
    calibration_section,
    class_section,
    confusion_section,
    curve_section,
    error_section,
    learning_section,
    worst_section,
)
from .run_results import RunResults, details_of, read_detections, read_run

REPORT_FILE = "report.html"
MAX_BYTES = 4_900_000
MAX_CONFIG = 100_000  # characters
NUM_WORST = 12


def write_report(folder: Path, target: Path | None = None) -> Path:
    """Write the report of a run; return its path.

    Args:
        folder: of a training run or of an evaluation.
        target: the HTML file; None for `report.html` in the folder.

    Raises:
        InputError: the folder does not hold a run.
        RunError: the file cannot be written.
    """
    target = target or folder / REPORT_FILE
    page = make_report(read_run(folder))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {shorten(target)}: {error.strerror or error}") from None
    return target


def make_report(run: RunResults) -> str:
    """Return the page of a run. A part that the run does not have is left out with a sentence."""
    detections, reason = None, ""
    try:
        detections = read_detections(run)
    except InputError as error:
        reason = str(error)
    details, origin = run.details, ""
    if not details and detections is not None:
        details = details_of(detections[0])
        origin = "Computed for this report from predictions.json."
    missing = f"The run has no complete details.json, and nothing to compute this from: {reason}."
    sections = [learning_section(run.log), _metrics_section(run.metrics)]
    for make in (class_section, curve_section, error_section, confusion_section, calibration_section):
        sections.append(make(details, missing))
    if origin:
        sections[2].texts.append(origin)
    rest = [_config_section(run), _environment_section(run.environment)]
    used = len(_page(run, [*sections, *rest]))
    worst = worst_section(detections, reason, details, MAX_BYTES - used, NUM_WORST)
    return _page(run, [*sections, worst, *rest])


def _page(run: RunResults, sections: Sequence[Section]) -> str:
    notes = [f"{shorten(problem, 300)}." for problem in run.problems.values()]
    if not run.is_finished:
        done = run.log[-1]["iteration"] if run.log else 0
        goal = f" of {run.config.max_iters}" if run.config else ""
        notes.append(f"This run is not finished: its log ends at iteration {done}{goal}.")
    headline = [
        (name.replace("/", " "), points(value))
        for name, value in run.metrics.items()
        if name.partition("/")[2] in ("AP", "AP50", "AP75")
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return render_report(
        name=shorten(run.folder.resolve().name, 120),
        subtitle=f"Report made {made}. AP, recall and precision are in points: 100 is perfect.",
        notes=notes,
        headline=headline,
        facts=_facts(run),
        sections=sections,
    )


def _facts(run: RunResults) -> list[tuple[str, str]]:
    facts = [("folder", str(run.folder))]
    if run.config is not None:
        model = run.config.model
        parts = [model.get("type"), *(_type(model.get(part)) for part in ("backbone", "neck"))]
        facts.append(("model", ", ".join(str(part) for part in parts if part)))
        facts.append(("data", str(getattr(run.config, "data_root", None))))
        if run.log:
            seconds = [entry["seconds"] for entry in run.log if "seconds" in entry]
            steps = f"{run.log[-1]['iteration']} of {run.config.max_iters} iterations"
            batch = f"{run.config.batch_size} images per step and process"
            pace = f", {np.median(seconds):.2f} s per step" if seconds else ""
            facts.append(("training", f"{steps}, {batch}{pace}"))
    return [(label, shorten(value, 300)) for label, value in facts]


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else part


def _metrics_section(metrics: Mapping[str, Any]) -> Section:
    section = Section("Metrics")
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    kinds = list(dict.fromkeys(name.partition("/")[0] for name in numbers if "/" in name))
    if not numbers:
        section.missing.append("The run has no evaluation yet.")
        return section
    columns = list(dict.fromkeys(name.partition("/")[2] for name in numbers if "/" in name))
    if kinds:
        rows = [[kind, *(points(numbers.get(f"{kind}/{column}")) for column in columns)] for kind in kinds]
        section.tables.append(("", ["", *columns], rows))
    others = [[name, f"{value:.4g}"] for name, value in numbers.items() if "/" not in name]
    if others:
        section.tables.append(("Other values", ["name", "value"], others))
    return section


def _config_section(run: RunResults) -> Section:
    section = Section("Config")
    try:
        text = (run.folder / "config.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        section.missing.append("The run has no config.py.")
        return section
    if len(text) > MAX_CONFIG:
        section.texts.append(f"The first {MAX_CONFIG} of {len(text)} characters.")
    section.listings.append(("config.py: every key resolved", text[:MAX_CONFIG]))
    return section


def _environment_section(environment: Mapping[str, Any]) -> Section:
    section = Section("Environment")
    if not environment:
        section.missing.append("The run has no environment.json.")
        return section
    for part, content in environment.items():
        if not isinstance(content, Mapping):
            continue
        rows = [[str(name), _spell(value)] for name, value in content.items()]
        section.tables.append((str(part), ["name", "value"], rows))
    return section


def _spell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_spell(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(_spell, value)) or "none"
    return "none" if value is None else str(value)
