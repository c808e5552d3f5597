"""Data loaders for training (endless, shuffled, resumable) and for evaluation (each image once)."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import InputError
from .sample_order import Sample, SampleOrder

MAX_DRAWS = 100  # items that are tried in place of one that cannot be read
MAX_WORKERS = 8


class TrainingSampler(Sampler[Sample]):
    """Endless (index, seed) pairs for one of several processes, in an order that does not depend on their number.

    Positions count the samples of all processes together. A batch of a process has consecutive positions, and the
    processes take turns: item k has the position `start + ((k // b) * world_size + rank) * b + k % b` with b images per
    batch. The order is a function of seed and position alone, see `SampleOrder`, so a run that is resumed with another
    batch size or number of processes goes on at the right sample.

    With `grouping_flags` and a batch size that divides 16, at most one batch per window of 512 samples has both flags.
    Other batch sizes have more mixed batches.

    Args:
        size: number of images in the dataset.
        seed: seed of the run.
        start: number of samples that all processes together have seen already, to resume from.
        rank, world_size: number of this process, and how many there are.
        grouping_flags: a flag per image, such as whether it is wider than high; None keeps the permutation's order.
        batch_size: images per batch of one process.
        repeat_factors: how often each image comes per epoch on average, at least 1; None for once.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        grouping_flags: Sequence[bool] | None = None,
        batch_size: int = 1,
        repeat_factors: Sequence[float] | None = None,
    ):
        self.start, self.rank, self.world_size, self.batch_size = start, rank, world_size, batch_size
        self.order = SampleOrder(size, seed, grouping_flags, repeat_factors)

    def __iter__(self) -> Iterator[Sample]:
        for batch in itertools.count(self.rank, self.world_size):
            first = self.start + batch * self.batch_size
            for position in range(first, first + self.batch_size):
                yield self.order[position]


class ReadableItems(Dataset):
    """A training dataset in which another item takes the place of one that cannot be read.

    An item is requested with `(index, seed)` and is (item of the dataset, error messages of unreadable items). The
    other items are drawn with the seed, so a resumed run gets the same ones. In place of the item stands an InputError
    if unreadable items are not allowed, or if none can be read: an exception that is raised in a loading process would
    reach the training process as the text of a traceback. `take_items` raises it.

    Args:
        dataset: indexed with `(index, seed)`.
        unreadable: returns an error message for an item that could not be read, else None.
        allowed: replace unreadable items.
    """

    def __init__(self, dataset: Any, unreadable: Callable[[Any], str | None], allowed: bool):
        self.dataset, self.unreadable, self.allowed = dataset, unreadable, allowed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: tuple[int, int | Sequence[int]]) -> tuple[Any, list[str]]:
        index, seed = sample
        others = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))  # not what the item draws from
        problems: list[str] = []
        for _ in range(MAX_DRAWS):
            try:
                item = self.dataset[index, seed]
            except InputError as error:
                return error, problems
            problem = self.unreadable(item)
            if problem is None:
                return item, problems
            if not self.allowed:
                return InputError(f"{problem}; skip_unreadable=true skips such items"), [problem]
            problems.append(problem)
            index = int(others.integers(len(self)))
        return InputError(f"no training item can be read; the first: {problems[0]}"), problems


def take_items(batch: Sequence[tuple[Any, list[str]]], problems: set[str]) -> list:
    """Return the items of a batch of `ReadableItems`, and add its error messages to `problems`.

    Raises:
        InputError: an item cannot be read, and nothing takes its place.
    """
    for item, messages in batch:
        if isinstance(item, InputError):
            raise item
        problems.update(messages)
    return [item for item, _ in batch]


def usable_cores() -> int:
    """Return the cores for this training process: those of the machine, shared with its other training processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def worker_count(requested: int | None, device: torch.device) -> int:
    """Return the number of loading processes per training process.

    None stands for the cores of this process, at most 8, beside a GPU; and for 0 on the CPU, because loading an image
    takes a hundredth of the time of a training step and competes for the same cores.
    """
    if requested is not None or device.type != "cuda":
        return requested or 0
    return min(MAX_WORKERS, usable_cores())


def training_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    sampler: TrainingSampler,
    worker_init_fn: Callable[[int], None] | None = None,
) -> DataLoader:
    """Return endless lists of `batch_size` dataset items. Images stay uint8 until the model has them on its device."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_list,
        drop_last=True,
        worker_init_fn=worker_init_fn,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_loader(
    dataset: Dataset,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    worker_init_fn: Callable[[int], None] | None = None,
) -> DataLoader:
    """Return a loader of one-item lists, in which each process gets its share and all together get every item once.

    One item at a time, so that padding to other images of a batch cannot change a result.
    """
    indices = [(index, 0) for index in range(rank, len(dataset), world_size)]  # type: ignore[arg-type]
    return DataLoader(
        dataset, 1, sampler=indices, num_workers=workers, collate_fn=_as_list, worker_init_fn=worker_init_fn
    )


def _as_list(items: list) -> list:
    return items
