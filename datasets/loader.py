"""Batches for training (endless, shuffled, resumable) and for evaluation (each image once)."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from .coco import CocoDataset


class TrainingSampler(Sampler[tuple[int, tuple[int, int]]]):
    """Endless (index, seed) pairs: one permutation an epoch, a function of the seed and the position alone.

    Args:
        size: images in the dataset.
        seed: of the run.
        start: samples already seen by all processes together, to go on from.
        rank, world: this process takes every `world`-th sample.
    """

    def __init__(self, size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1):
        self.size, self.seed, self.start, self.rank, self.world = size, seed, start, rank, world

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int]]]:
        position, epoch, order = self.start + self.rank, -1, []
        while True:
            if position // self.size != epoch:
                epoch = position // self.size
                order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
            yield order[position % self.size], (self.seed, position)
            position += self.world


def _collate(items: list) -> list:
    return items


def training_loader(dataset: CocoDataset, batch_size: int, workers: int, sampler: TrainingSampler) -> DataLoader:
    """Endless lists of `batch_size` dataset items."""
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=_collate, drop_last=True,
                      persistent_workers=workers > 0)  # fmt: skip


def evaluation_loader(dataset: CocoDataset, workers: int, rank: int = 0, world: int = 1) -> DataLoader:
    """Every image once, one at a time, so that padding to a neighbour never changes a result."""
    indices = [(index, 0) for index in range(rank, len(dataset), world)]
    return DataLoader(dataset, 1, sampler=indices, num_workers=workers, collate_fn=_collate)
