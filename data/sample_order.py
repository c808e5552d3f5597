"""The order of training samples: a function of seed and position alone."""

from collections.abc import Sequence

import numpy as np
import torch

BLOCK = 16  # samples of one flag that stay together; fixed, so that the order does not depend on the batch size
WINDOW = 32  # blocks among which samples are grouped

Sample = tuple[int, tuple[int, int]]  # index, seed of the augmentation


class SampleOrder:
    """Endless (index, seed) pairs by position.

    An epoch is one permutation of the images, in which an image comes once, or `repeat_factors` times on average: a
    factor of 2.3 stands for two or three times, drawn anew per epoch (stochastic rounding, as in detectron2's
    RepeatFactorTrainingSampler).

    With `grouping_flags`, samples of one flag come together: within each window of 32 blocks of 16 samples, or as many
    blocks as an epoch without repeats has, samples are sorted by flag, then the blocks are shuffled. At most one block
    per window has both flags.

    Args:
        size: number of images in the dataset.
        seed: seed of the run.
        grouping_flags: a flag per image, such as whether it is wider than high; None keeps the permutation's order.
        repeat_factors: how often each image comes per epoch on average, at least 1; None for once.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        grouping_flags: Sequence[bool] | None = None,
        repeat_factors: Sequence[float] | None = None,
    ):
        self.size, self.seed, self.grouping_flags = size, seed, grouping_flags
        self.factors = None if repeat_factors is None else torch.tensor(repeat_factors, dtype=torch.float64)
        self.window = BLOCK * min(WINDOW, max(1, size // BLOCK))
        self._epoch, self._epoch_start = -1, 0
        self._indices: list[int] = []
        self._window_number, self._samples = -1, list[Sample]()

    def __getitem__(self, position: int) -> Sample:
        if self.grouping_flags is None:
            return self._ungrouped(position)
        number, offset = divmod(position, self.window)
        if number != self._window_number:
            self._window_number, self._samples = number, self._samples_of_window(number, self.grouping_flags)
        return self._samples[offset]

    def _samples_of_window(self, number: int, flags: Sequence[bool]) -> list[Sample]:
        samples = [self._ungrouped(position) for position in range(number * self.window, (number + 1) * self.window)]
        samples.sort(key=lambda sample: flags[sample[0]])
        blocks = torch.randperm(self.window // BLOCK, generator=_generator(self.seed, 1, number)).tolist()
        return [sample for block in blocks for sample in samples[block * BLOCK : (block + 1) * BLOCK]]

    def _ungrouped(self, position: int) -> Sample:
        if self.factors is None:
            epoch, offset = divmod(position, self.size)
            if epoch != self._epoch:
                self._epoch, self._indices = epoch, self._indices_of_epoch(epoch)
            return self._indices[offset], (self.seed, position)
        if self._epoch < 0 or position < self._epoch_start:
            self._epoch, self._epoch_start, self._indices = 0, 0, self._indices_of_epoch(0)
        while position >= self._epoch_start + len(self._indices):  # epochs differ in length
            self._epoch, self._epoch_start = self._epoch + 1, self._epoch_start + len(self._indices)
            self._indices = self._indices_of_epoch(self._epoch)
        return self._indices[position - self._epoch_start], (self.seed, position)

    def _indices_of_epoch(self, epoch: int) -> list[int]:
        generator = _generator(self.seed, 0, epoch)
        if self.factors is None:
            return torch.randperm(self.size, generator=generator).tolist()
        drawn = torch.rand(self.size, generator=generator, dtype=torch.float64) < self.factors.frac()
        indices = torch.arange(self.size).repeat_interleave(self.factors.long() + drawn)
        return indices[torch.randperm(len(indices), generator=generator)].tolist()


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    """Return a generator whose numbers do not repeat those of another seed, stream or number."""
    state = np.random.SeedSequence(seed, spawn_key=(stream, number)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
