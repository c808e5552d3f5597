"""Batches for training (endless, shuffled, resumable) and for evaluation (each image once)."""

import os
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Sampler

from .coco import CocoDataset

WINDOW = 32  # batches among which images are sorted by orientation
MOST_WORKERS = 8

Sample = tuple[int, tuple[int, int]]


class TrainingSampler(Sampler[Sample]):
    """Endless (index, seed) pairs: one permutation an epoch, a function of the seed and the position alone.

    With `landscape`, batches hold images of one orientation, since a batch is padded to its largest sides: within every
    window of 32 batches the landscape images come together, then the batches are shuffled. At most one batch of a window
    is mixed.

    Args:
        size: images in the dataset.
        seed: of the run.
        start: samples already seen by all processes together, to go on from.
        rank, world: this process takes every `world`-th sample.
        landscape: for each image whether it is wider than high; None keeps the order of the permutation.
        batch: samples that all processes together take for one batch.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        landscape: Sequence[bool] | None = None,
        batch: int = 1,
    ):
        self.size, self.seed, self.start, self.rank, self.world = size, seed, start, rank, world
        self.landscape, self.batch = landscape, batch
        self.window = batch * WINDOW
        self._epoch, self._order = -1, []

    def __iter__(self) -> Iterator[Sample]:
        position, current, samples = self.start + self.rank, -1, []
        while True:
            number, within = divmod(position, self.window)
            if number != current:
                current, samples = number, self._window(number)
            yield samples[within]
            position += self.world

    def _window(self, number: int) -> list[Sample]:
        samples = [self._sample(position) for position in range(number * self.window, (number + 1) * self.window)]
        if self.landscape is None:
            return samples
        samples.sort(key=lambda sample: self.landscape[sample[0]])
        shuffled = torch.randperm(WINDOW, generator=torch.Generator().manual_seed(self.seed + number)).tolist()
        return [sample for i in shuffled for sample in samples[i * self.batch : (i + 1) * self.batch]]

    def _sample(self, position: int) -> Sample:
        epoch, within = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
        return self._order[within], (self.seed, position)


def worker_count(asked: int | None, device: torch.device, processes: int) -> int:
    """Loading processes of one training process.

    Not asked for: beside a GPU the cores that the machine has for each process, at most 8; on the CPU none, because
    loading an image is a hundredth of training on it and both want the same cores.
    """
    if asked is not None or device.type != "cuda":
        return asked or 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, cores // processes)


def _collate(items: list) -> list:
    return items


def training_loader(dataset: CocoDataset, batch_size: int, workers: int, sampler: TrainingSampler) -> DataLoader:
    """Endless lists of `batch_size` dataset items; images stay uint8 until the detector has them on its device."""
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=_collate, drop_last=True,
                      persistent_workers=workers > 0, pin_memory=torch.cuda.is_available())  # fmt: skip


def evaluation_loader(dataset: CocoDataset, workers: int, rank: int = 0, world: int = 1) -> DataLoader:
    """Every image once, one at a time, so that padding to a neighbour never changes a result."""
    indices = [(index, 0) for index in range(rank, len(dataset), world)]
    return DataLoader(dataset, 1, sampler=indices, num_workers=workers, collate_fn=_collate)
