"""Train and evaluate a detector on COCO-format data.

    python tools/train_coco.py [CONFIG] [key=value ...]

Without CONFIG it trains a small Mask R-CNN on the embedded dataset. A bad input ends with one line and exit code 2.
"""

import json
import re
import sys
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from detbackbones import InputError, build_detector
from detbackbones.data.coco import Unreadable
from detbackbones.data.loader import evaluation_loader, worker_count
from detbackbones.engine.checkpoint import fine_tune_from, load_model, read_checkpoint, read_start
from detbackbones.engine.config import DEFAULT_CONFIG, Run, as_run, find_config, lasting, load_config, parse_overrides
from detbackbones.engine.detection import data_root, open_training, open_validation
from detbackbones.engine.evaluate import evaluate
from detbackbones.visualization.detections import save_grid
from detbackbones.engine.trainer import Trainer, progress_bars
from detbackbones.evaluation.coco import coco_table
from detbackbones.tools.cli import command

RUNS = Path("runs")
GRID_IMAGES = 9
LEFT_BY_A_RUN = ("config.py", "log.jsonl", "metrics.json", "last.pt", "best.pt")


def run_name(saved: str) -> str:
    """Name of the run that a checkpoint file or a run's folder belongs to."""
    path = Path(saved).resolve()
    return path.name if path.is_dir() else path.parent.name


def numbered_runs(name: str) -> list[Path]:
    """Folders `runs/<name>-<n>`, in order of n."""
    found = [p for p in RUNS.glob(f"{name}-*") if re.fullmatch(rf"{re.escape(name)}-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def choose_folder(run: Run, name: str) -> Path:
    """The run's folder, not made yet: `work_dir`, the newest to resume, or the next number."""
    numbered = numbered_runs(name)
    if run.work_dir is not None:
        folder = Path(run.work_dir)
        if any((folder / name).exists() for name in LEFT_BY_A_RUN) and not (run.resume or run.overwrite):
            raise InputError(f"work_dir {folder} already holds a run; resume=true, overwrite=true or another folder")
        return folder
    if run.resume:
        if not numbered:
            raise InputError(f"nothing to resume: there is no {RUNS / name}-<n>; name the run with work_dir=")
        return numbered[-1]
    number = int(numbered[-1].name.rsplit("-", 1)[1]) + 1 if numbered else 1
    return RUNS / f"{name}-{number}"


def make_folder(folder: Path, run: Run) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=run.work_dir is not None or run.resume)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}") from None


def tell_dropped(annotations, console: Console) -> None:
    if annotations.dropped:
        console.print(f"{annotations.path}: left out {annotations.dropped} annotation(s) with an unusable box or mask")


def pictures(model: torch.nn.Module, dataset, device: torch.device) -> list[tuple]:
    """Samples for the grid: the first images of the dataset with ground truth and what the model sees."""
    dataset.masks = getattr(model, "has_masks", False)
    samples = []
    readable = (item for item in (dataset[index, 0] for index in range(len(dataset))) if not isinstance(item, Unreadable))
    model.eval()
    with torch.inference_mode():
        for image, truth in islice(readable, GRID_IMAGES):
            predicted = {k: v.cpu() for k, v in model([image.to(device)])[0].items()}
            samples.append((image, truth, predicted))
    return samples


def finish(folder: Path, scores, model, validation, device, console: Console) -> None:
    metrics, evaluator = scores
    console.print(coco_table(metrics))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    samples = pictures(model, validation, device)
    if samples:
        save_grid(folder / "predictions.png", samples, validation.annotations.names)
    console.print(f"results in {folder}")


def run_evaluation(cfg, run: Run, name: str, console: Console) -> None:
    state = read_checkpoint(run.checkpoint)
    validation = open_validation(run, data_root(run))
    if validation.annotations.category_ids != list(state["classes"]["ids"]):
        raise InputError(f"{validation.annotations.path} has category ids {validation.annotations.category_ids[:8]}..., "
                         f"the checkpoint was trained on {list(state['classes']['ids'])[:8]}...")  # fmt: skip
    model = build_detector(state["config"]["model"], num_classes=len(state["classes"]["ids"]), load_weights=False)
    load_model(model, state["model"], run.checkpoint)
    folder = choose_folder(run, f"{name}-eval")
    tell_dropped(validation.annotations, console)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    loader = evaluation_loader(validation, worker_count(run.workers, device, 1))
    skipped = set() if run.skip_unreadable else None
    with progress_bars(console) as progress:
        bar = progress.add_task("evaluate", total=len(validation), note="")
        scores = evaluate(model, validation, loader, device, run.eval_backend, lambda: progress.advance(bar), skipped)
    if skipped:
        console.print(f"skipped {len(skipped)} unreadable image(s), first {min(skipped)}")
    make_folder(folder, run)
    finish(folder, scores, model, validation, device, console)


def run_training(cfg, run: Run, name: str, console: Console) -> None:
    folder = choose_folder(run, name)
    state = read_checkpoint(folder) if run.resume else None
    root = data_root(run)
    training, validation = open_training(run, root), open_validation(run, root)
    classes = training.annotations.category_ids
    for annotations, what in ((validation.annotations.category_ids, "the validation file"),
                              (state and list(state["classes"]["ids"]), "the checkpoint to resume")):
        if annotations and annotations != classes:
            raise InputError(f"{what} has category ids {annotations[:8]}..., {training.annotations.path} has {classes[:8]}...")
    if state and state["config"]["optimizer"]["type"] != run.optimizer["type"]:
        raise InputError(f"{folder} was trained with {state['config']['optimizer']['type']}, not {run.optimizer['type']}")
    tell_dropped(training.annotations, console)
    tell_dropped(validation.annotations, console)
    torch.manual_seed(run.seed)
    fresh = state is None and run.init_from is None
    model = build_detector(cfg.model.to_dict(), num_classes=len(classes), load_weights=fresh)
    if state is not None:
        load_model(model, state["model"], str(folder))
    elif run.init_from is not None:
        anew = fine_tune_from(model, read_start(run.init_from, training.annotations.names), run.init_from)
        new_parts = f"; new for {len(classes)} classes: {', '.join(anew)}" if anew else ""
        console.print(f"started from {run.init_from}{new_parts}")
    trainer = Trainer(cfg, run, model, training, validation, folder, console, state)
    make_folder(folder, run)
    if run.overwrite:
        for old in LEFT_BY_A_RUN:
            (folder / old).unlink(missing_ok=True)
    lasting(cfg).dump(folder / "config.py")
    console.print(f"{name}: {len(training)} training and {len(validation)} validation images, "
                  f"{len(classes)} classes -> {folder}")  # fmt: skip
    scores = trainer.fit()
    device = trainer.accelerator.device
    finish(folder, scores, trainer.accelerator.unwrap_model(trainer.model), validation, device, console)


def train_or_evaluate(named: list[str], pairs: list[str]) -> None:
    if len(named) > 1:
        raise InputError(f"one config at a time, not {' and '.join(named)}")
    overrides = parse_overrides(pairs)
    source: dict | Path = find_config(named[0] if named else DEFAULT_CONFIG)
    name = source.stem
    saved = overrides.get("checkpoint" if overrides.get("eval_only") else "work_dir")
    if saved and not named and (overrides.get("eval_only") or overrides.get("resume")):  # a run says itself what it is
        source, name = read_checkpoint(saved)["config"], run_name(saved)
    cfg = load_config(source, overrides)
    run = as_run(cfg)
    (run_evaluation if run.eval_only else run_training)(cfg, run, name, Console())


def main(arguments: list[str] | None = None) -> int:
    return command(__doc__, train_or_evaluate, arguments, bare=True)


if __name__ == "__main__":
    sys.exit(main())
