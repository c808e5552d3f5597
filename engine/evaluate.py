"""Detections of a whole dataset, scored as COCO does."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from ..layers.fuse import fuse_for_inference
from ..data.coco import CocoDataset, Unreadable
from ..evaluation.coco import CocoEvaluator
from ..errors import InputError


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: CocoDataset,
    loader: Iterable,
    device: torch.device,
    backend: str,
    progress: Callable[[], None] = lambda: None,
    skipped: set[Path] | None = None,
) -> tuple[dict[str, dict[str, float]], CocoEvaluator]:
    """The 12 COCO numbers for boxes, and for masks where the model has them, with the evaluator that holds the results.

    Boxes and masks are mapped to the image as it is on disk. An unreadable image is an InputError, unless there is a set
    `skipped` to note it in; then it counts as an image without detections.
    """
    kinds = ("bbox", "segm") if getattr(model, "has_masks", False) else ("bbox",)
    evaluator = CocoEvaluator(dataset.annotations.content, kinds, backend)
    ids = torch.tensor(dataset.annotations.category_ids)
    # the copy is faster on the CPU; on a GPU it would lose what `compile` made
    model = fuse_for_inference(model) if device.type == "cpu" else model.eval()
    for items in loader:
        progress()
        for item in items:
            if isinstance(item, Unreadable):
                if skipped is None:
                    raise InputError(f"image {item.path} is unreadable ({item.reason}); skip_unreadable=true goes on")
                skipped.add(item.path)
        items = [item for item in items if not isinstance(item, Unreadable)]
        if not items:
            continue
        images, targets = zip(*items)
        outputs = model([image.to(device) for image in images], output_sizes=[t["size"] for t in targets])
        for target, output in zip(targets, outputs):
            output = {key: value.cpu() for key, value in output.items()}
            evaluator.update({target["image_id"]: dict(output, labels=ids[output["labels"]])})
    return evaluator.compute(), evaluator


@torch.inference_mode()
def validation_losses(model: nn.Module, loader: Iterable, device: torch.device) -> dict[str, float]:
    """Mean over images of every loss in evaluation mode, as "val_<name>", and their sum "val_loss".

    The loader's targets leave out crowds (a dataset with `training=True, flip=0`). RoIs are sampled with a fixed seed,
    so that values of one run compare; the random state outside stays as it was. Unreadable images are left out.
    """
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for items in loader:
            items = [item for item in items if not isinstance(item, Unreadable)]
            if not items:
                continue
            images, targets = zip(*items)
            targets = [{k: v.to(device) for k, v in t.items() if isinstance(v, torch.Tensor)} for t in targets]
            losses = model.losses([image.to(device) for image in images], targets)
            for name, value in {"loss": sum(losses.values()), **losses}.items():
                name = f"val_{name.removeprefix('loss_')}"
                sums[name] = sums.get(name, 0.0) + value.item() * len(items)
            count += len(items)
    return {name: value / max(count, 1) for name, value in sums.items()}
