"""Data loaders for training (endless, shuffled, resumable) and for evaluation (each image once)."""

import itertools
import os
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

GROUPING_WINDOW = 32  # batches among which images are grouped
MAX_WORKERS = 8

Sample = tuple[int, tuple[int, int]]  # index, seed of the augmentation


class TrainingSampler(Sampler[Sample]):
    """Endless (index, seed) pairs: one permutation per epoch, a function of seed and position alone.

    With `grouping_flags` a batch holds images of one flag, such as one orientation, because a batch is padded to its
    largest sides (aspect-ratio grouping). Within each window of 32 batches the samples are sorted by flag, then the
    batches are shuffled; at most one batch per window has both.

    Args:
        size: number of images in the dataset.
        seed: seed of the run.
        start: number of samples that all processes together have seen already, to resume from.
        rank, world_size: this process takes every `world_size`-th sample.
        grouping_flags: a flag per image, such as whether it is wider than high; None keeps the permutation's order.
        batch_size: samples per batch of all processes together.
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
    ):
        self.size, self.seed, self.start = size, seed, start
        self.rank, self.world_size = rank, world_size
        self.grouping_flags, self.batch_size = grouping_flags, batch_size
        self.window = batch_size * GROUPING_WINDOW
        self._epoch = -1
        self._permutation: list[int] = []

    def __iter__(self) -> Iterator[Sample]:
        current, samples = -1, list[Sample]()
        for position in itertools.count(self.start + self.rank, self.world_size):
            number, offset = divmod(position, self.window)
            if number != current:
                current, samples = number, self._samples_of_window(number)
            yield samples[offset]

    def _samples_of_window(self, number: int) -> list[Sample]:
        samples = [self._sample(position) for position in range(number * self.window, (number + 1) * self.window)]
        flags = self.grouping_flags
        if flags is None:
            return samples
        samples.sort(key=lambda sample: flags[sample[0]])
        batches = [samples[start : start + self.batch_size] for start in range(0, self.window, self.batch_size)]
        return [sample for index in _permutation(GROUPING_WINDOW, self.seed + number) for sample in batches[index]]

    def _sample(self, position: int) -> Sample:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = _permutation(self.size, self.seed + epoch)
        return self._permutation[offset], (self.seed, position)


def _permutation(size: int, seed: int) -> list[int]:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()


def worker_count(requested: int | None, device: torch.device, processes: int) -> int:
    """Return the number of loading processes per training process.

    None stands for the machine's cores per process, at most 8, beside a GPU; and for 0 on the CPU, because loading an
    image takes a hundredth of the time of a training step and competes for the same cores.
    """
    if requested is not None or device.type != "cuda":
        return requested or 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores // processes)


def training_loader(dataset: Dataset, batch_size: int, workers: int, sampler: TrainingSampler) -> DataLoader:
    """Return endless lists of `batch_size` dataset items. Images stay uint8 until the model has them on its device."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_list,
        drop_last=True,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_loader(dataset: Dataset, workers: int, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Return a loader of one-item lists, in which each process gets its share and all together get every item once.

    One item at a time, so that padding to other images of a batch cannot change a result.
    """
    indices = [(index, 0) for index in range(rank, len(dataset), world_size)]  # type: ignore[arg-type]
    return DataLoader(dataset, 1, sampler=indices, num_workers=workers, collate_fn=_as_list)


def _as_list(items: list) -> list:
    return items
