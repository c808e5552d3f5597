"""The training loop: iterations (optimizer steps) from a detector to checkpoints, a log and scores."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from ..data.coco import CocoDataset, Unreadable
from ..data.loader import TrainingSampler, evaluation_loader, training_loader, worker_count
from ..evaluation.coco import CocoEvaluator
from ..errors import InputError
from .checkpoint import save_checkpoint
from .config import OPTIMIZERS, Run, Schedule, lasting
from .evaluate import evaluate, validation_losses


def progress_bars(console: Console) -> Progress:
    """Bars in a terminal, nothing elsewhere. Every task has a text field `note`."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
                    disable=not console.is_terminal)  # fmt: skip


def learning_rate_factor(schedule: Schedule, iteration: int, max_iters: int) -> float:
    """Factor on the learning rate of the step number `iteration`, counted from 0."""
    if iteration < schedule.warmup_iters:
        done = iteration / schedule.warmup_iters
        return schedule.warmup_factor * (1 - done) + done
    if schedule.cosine:
        left = max(1, max_iters - schedule.warmup_iters)
        return 0.5 * (1 + math.cos(math.pi * (iteration - schedule.warmup_iters) / left))
    return schedule.gamma ** sum(iteration >= step for step in schedule.steps)


def make_optimizer(settings: dict, model: nn.Module, scale: float) -> torch.optim.Optimizer:
    """The optimizer over what trains, its learning rate multiplied by `scale`; fused unless the settings say how it runs."""
    settings = dict(settings)
    kind = OPTIMIZERS[settings.pop("type")]
    if not {"fused", "foreach"} & settings.keys():
        settings["fused"] = True
    settings["lr"] = settings["lr"] * scale
    return kind([p for p in model.parameters() if p.requires_grad], **settings)


@dataclass
class Trainer:
    """One training run.

    Args:
        cfg: the resolved config, saved in every checkpoint.
        run: the same as typed values.
        model: the detector, with its starting weights.
        training, validation: the datasets.
        folder: where log, checkpoints and metrics go; it exists.
        state: the checkpoint to go on from, or None.
    """

    cfg: Config
    run: Run
    model: nn.Module
    training: CocoDataset
    validation: CocoDataset
    folder: Path
    console: Console
    state: dict | None = None
    skipped: set[Path] = field(default_factory=set)

    def __post_init__(self):
        run = self.run
        try:
            self.accelerator = Accelerator(mixed_precision=run.precision)
        except (ValueError, ImportError) as error:  # this machine cannot
            raise InputError(f"precision={run.precision}: {error}".replace("\n", " ")) from None
        self.world = self.accelerator.num_processes
        self.workers = worker_count(run.workers, self.accelerator.device, self.world)
        if run.compile:  # the heads' work depends on what they find, so a graph of the whole step would break there
            for part in (self.model.backbone, self.model.neck):
                part.compile()
        per_step = run.batch_size * run.accumulate * self.world
        scale = per_step / run.reference_batch_size
        self.optimizer = make_optimizer(run.optimizer, self.model, scale)
        self.base_lr = self.optimizer.param_groups[0]["lr"]
        if scale != 1:
            self.console.print(f"learning rate {self.base_lr:g} = {run.optimizer['lr']:g} x {per_step} / "
                               f"{run.reference_batch_size} (images a step / reference_batch_size)")  # fmt: skip
        self.iteration, self.best = 0, -math.inf
        self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if self.state is not None:
            self.optimizer.load_state_dict(self.state["optimizer"])
            self.iteration, self.best = self.state["iteration"], self.state["best"]
        self.samples_seen = self.iteration * per_step

    def fit(self) -> tuple[dict[str, dict[str, float]], CocoEvaluator]:
        """Train to `max_iters`, then return the final scores and the evaluator that holds the detections."""
        run = self.run
        batches = self._batches()
        scores = None
        with progress_bars(self.console) as progress, open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            bar = progress.add_task("train", total=run.max_iters, completed=self.iteration, note="")
            while self.iteration < run.max_iters:
                started = time.perf_counter()
                losses, lr = self._step(batches)
                self.iteration += 1
                seconds = time.perf_counter() - started
                progress.update(bar, advance=1, note=f"loss {losses['loss']:.3f} lr {lr:.2g}")
                if self.iteration % run.log_every == 0 or self.iteration in (1, run.max_iters):
                    self._log(log, {"iteration": self.iteration, "lr": lr, "seconds": round(seconds, 4),
                                    **{k: round(v, 5) for k, v in losses.items()}})  # fmt: skip
                    if not self.console.is_terminal:
                        self.console.print(f"iteration {self.iteration}/{run.max_iters} loss {losses['loss']:.3f} "
                                           f"lr {lr:.2g} {seconds:.2f} s")  # fmt: skip
                last = self.iteration == run.max_iters
                if last or (run.eval_every and self.iteration % run.eval_every == 0):
                    scores = self._evaluate(progress)
                    self._log(log, {"iteration": self.iteration, **scores[0], **self._validation_losses()})
                    self._keep_best(scores[0])
                if last or (run.checkpoint_every and self.iteration % run.checkpoint_every == 0):
                    self._save("last.pt")
        if scores is None:  # resumed at the end
            with progress_bars(self.console) as progress:
                scores = self._evaluate(progress)
        if self.skipped:
            self.console.print(f"skipped {len(self.skipped)} unreadable image(s), first {min(self.skipped)}")
        return scores

    def _step(self, batches: Iterator[list]) -> tuple[dict[str, float], float]:
        """One optimizer step over `accumulate` batches; returns the mean losses and the learning rate."""
        run = self.run
        lr = self.base_lr * learning_rate_factor(run.schedule, self.iteration, run.max_iters)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        means: dict[str, float] = {}
        for turn in range(run.accumulate):
            images, targets = zip(*next(batches))
            # Decides the RoI sampling. After the batch, because a loader draws from the same generator when it starts.
            part = self.iteration * run.accumulate + turn
            torch.manual_seed(run.seed + part * self.world + self.accelerator.process_index)
            device = self.accelerator.device
            ids = [t["image_id"] for t in targets]
            targets = [{k: v.to(device, non_blocking=True) for k, v in t.items() if isinstance(v, torch.Tensor)} for t in targets]
            with self.accelerator.no_sync(self.model) if turn + 1 < run.accumulate else contextlib.nullcontext():
                losses = self.model([image.to(device, non_blocking=True) for image in images], targets)
                total = sum(losses.values())
                values = {k: v.item() / run.accumulate for k, v in {"loss": total, **losses}.items()}
                if not math.isfinite(values["loss"]):
                    parts = ", ".join(f"{k} {v:g}" for k, v in values.items())
                    raise InputError(f"loss is not finite at iteration {self.iteration + 1}, images {ids}: {parts}")
                self.accelerator.backward(total / run.accumulate)
            means = {k: means.get(k, 0.0) + v for k, v in values.items()}
        if run.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), run.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return means, lr

    def _batches(self) -> Iterator[list]:
        run = self.run
        sampler = TrainingSampler(len(self.training), run.seed, self.samples_seen, self.accelerator.process_index, self.world,
                                  [image["width"] > image["height"] for image in self.training.images],
                                  run.batch_size * self.world)  # fmt: skip
        unreadable = set()
        for items in training_loader(self.training, run.batch_size, self.workers, sampler):
            bad = [item for item in items if isinstance(item, Unreadable)]
            if bad and not run.skip_unreadable:
                raise InputError(f"image {bad[0].path} is unreadable ({bad[0].reason}); skip_unreadable=true goes on")
            unreadable.update(item.path for item in bad)
            if len(unreadable) == len(self.training):
                raise InputError(f"all training images are unreadable, {bad[0].path} for one ({bad[0].reason})")
            self.skipped |= unreadable
            items = [item for item in items if not isinstance(item, Unreadable)]
            if items:
                yield items

    def _evaluate(self, progress: Progress) -> tuple[dict[str, dict[str, float]], CocoEvaluator]:
        loader = evaluation_loader(self.validation, self.workers)
        bar = progress.add_task("evaluate", total=len(self.validation), note="")
        model = self.accelerator.unwrap_model(self.model)
        scores = evaluate(model, self.validation, loader, self.accelerator.device, self.run.eval_backend,
                          lambda: progress.advance(bar), self.skipped if self.run.skip_unreadable else None)  # fmt: skip
        progress.update(bar, visible=False)
        return scores

    def _validation_losses(self) -> dict[str, float]:
        run = self.run
        if not run.val_loss:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        sides, long_side = self.validation.short_sides, self.validation.long_side
        dataset = CocoDataset(self.validation.annotations, training=True, short_side=sides[0], long_side=long_side,
                              masks=getattr(model, "has_masks", False), flip=0.0)  # fmt: skip
        return validation_losses(model, evaluation_loader(dataset, self.workers), self.accelerator.device)

    def _keep_best(self, metrics: dict[str, dict[str, float]]) -> None:
        score = metrics.get("segm", metrics["bbox"])["AP"]
        if score > self.best:
            self.best = score
            self._save("best.pt")

    def _save(self, name: str) -> None:
        if self.accelerator.is_main_process:
            annotations = self.training.annotations
            save_checkpoint(self.folder / name, {
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "iteration": self.iteration, "best": self.best,
                "config": lasting(self.cfg).to_dict(),
                "classes": {"ids": annotations.category_ids, "names": annotations.names},
            })  # fmt: skip

    def _log(self, log, entry: dict) -> None:
        log.write(json.dumps(entry) + "\n")
        log.flush()
