"""Train and evaluate a detector on COCO-format data.

    python tools/train_coco.py [CONFIG] [key=value ...]

Without CONFIG it trains a small Mask R-CNN on the embedded dataset. A bad input ends with one line and exit code 2.
"""

import json
import re
import sys
from pathlib import Path

import torch
from rich.console import Console

from detbackbones import InputError, build_detector
from detbackbones.datasets.loader import evaluation_loader
from detbackbones.engine.checkpoint import fine_tune_from, load_model, read_checkpoint
from detbackbones.engine.config import DEFAULT_CONFIG, Run, as_run, find_config, load_config, parse_overrides
from detbackbones.engine.data import data_root, open_training, open_validation
from detbackbones.engine.evaluate import evaluate
from detbackbones.engine.picture import save_grid
from detbackbones.engine.train import Trainer
from detbackbones.evaluation.coco import coco_table

RUNS = Path("runs")
GRID_IMAGES = 9


def numbered_runs(name: str) -> list[Path]:
    """Folders `runs/<name>-<n>`, in order of n."""
    found = [p for p in RUNS.glob(f"{name}-*") if re.fullmatch(rf"{re.escape(name)}-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def choose_folder(run: Run, name: str) -> Path:
    """The run's folder, not made yet: `work_dir`, the newest to resume, or the next number."""
    numbered = numbered_runs(name)
    if run.work_dir is not None:
        folder = Path(run.work_dir)
        if (folder / "log.jsonl").exists() or (folder / "metrics.json").exists():
            if not (run.resume or run.overwrite):
                raise InputError(f"work_dir {folder} already holds a run; resume=true, overwrite=true or another folder")
        return folder
    if run.resume:
        if not numbered:
            raise InputError(f"nothing to resume: there is no {RUNS / name}-<n>; name the run with work_dir=")
        return numbered[-1]
    number = int(numbered[-1].name.rsplit("-", 1)[1]) + 1 if numbered else 1
    return RUNS / f"{name}-{number}"


def pictures(model: torch.nn.Module, dataset, device: torch.device) -> list[tuple]:
    """Samples for the grid: the first images of the dataset with ground truth and what the model sees."""
    dataset.masks = hasattr(model, "roi_heads") and model.roi_heads.has_mask()
    samples = []
    model.eval()
    with torch.inference_mode():
        for index in range(min(GRID_IMAGES, len(dataset))):
            image, truth = dataset[index, 0]
            predicted = {k: v.cpu() for k, v in model([image.to(device)])[0].items()}
            samples.append((image, truth, predicted))
    return samples


def finish(folder: Path, scores, model, validation, device, console: Console) -> None:
    metrics, evaluator = scores
    console.print(coco_table(metrics))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    save_grid(folder / "predictions.png", pictures(model, validation, device), validation.annotations.names)
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
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    loader = evaluation_loader(validation, run.workers)
    scores = evaluate(model, validation, loader, device, run.eval_backend, skip_unreadable=run.skip_unreadable)
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
    for annotations in (training.annotations, validation.annotations):
        if annotations.dropped:
            console.print(f"{annotations.path}: left out {annotations.dropped} annotation(s) with an unusable box")
    torch.manual_seed(run.seed)
    fresh = state is None and run.init_from is None
    model = build_detector(cfg.model.to_dict(), num_classes=len(classes), load_weights=fresh)
    if state is not None:
        load_model(model, state["model"], str(folder))
    elif run.init_from is not None:
        anew = fine_tune_from(model, read_checkpoint(run.init_from)["model"], run.init_from)
        console.print(f"started from {run.init_from}" + (f"; new for {len(classes)} classes: {', '.join(anew)}" if anew else ""))
    folder.mkdir(parents=True, exist_ok=True)
    if run.overwrite:
        for old in ("log.jsonl", "metrics.json", "last.pt", "best.pt"):
            (folder / old).unlink(missing_ok=True)
    cfg.dump(folder / "config.py")
    console.print(f"{name}: {len(training)} training and {len(validation)} validation images, {len(classes)} classes -> {folder}")
    trainer = Trainer(cfg, run, model, training, validation, folder, console, state)
    scores = trainer.fit()
    device = trainer.accelerator.device
    finish(folder, scores, trainer.accelerator.unwrap_model(trainer.model), validation, device, console)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    console = Console()
    try:
        named = [a for a in arguments if "=" not in a]
        if len(named) > 1:
            raise InputError(f"one config at a time, not {' and '.join(named)}")
        overrides = parse_overrides([a for a in arguments if "=" in a])
        source: dict | Path = find_config(named[0] if named else DEFAULT_CONFIG)
        name = source.stem
        if overrides.get("eval_only"):
            if not overrides.get("checkpoint"):
                raise InputError("eval_only=true needs checkpoint=FILE")
            if not named:
                source = read_checkpoint(overrides["checkpoint"])["config"] | {"resume": False, "work_dir": None}
        cfg = load_config(source, overrides)
        run = as_run(cfg)
        (run_evaluation if run.eval_only else run_training)(cfg, run, name, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
