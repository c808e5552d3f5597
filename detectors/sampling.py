"""Sampling of anchors and RoIs for the losses, and how many things each loss is a mean over."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler


class SeededSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler, with a random generator per image if its target has a seed.

    The sample of an image with a seed depends on that image alone: not on the others in its batch, their order, or the
    state of the global generator. Without seeds the global generator is used, and the samples are torchvision's.

    Args:
        batch_size_per_image: elements sampled per image.
        positive_fraction: share of positive elements.
        stream: added to the seeds, so that two samplers draw different numbers from one seed. CPU generators use the
            lower 32 bits of a seed.

    Attributes:
        seeds: seed or None of each image, for the next call; empty for none.
        num_sampled: elements that the last call sampled in all images together.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float, stream: int):
        super().__init__(batch_size_per_image, positive_fraction)
        self.stream = stream
        self.seeds: Sequence[int | None] = ()
        self.num_sampled = 0

    def set_seeds(self, targets: Sequence[Mapping[str, Any]] | None) -> None:
        """Use the seeds of these targets in the next call."""
        self.seeds = [target.get("seed") for target in targets or ()]

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return masks of the sampled positive and negative elements per image, from labels (-1 is not sampled)."""
        self.num_sampled = 0
        positives, negatives = [], []
        for labels, seed in zip(matched_idxs, self.seeds or [None] * len(matched_idxs), strict=True):
            generator = None if seed is None else self._generator(seed, labels.device)
            positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
            num_positive = min(len(positive), int(self.batch_size_per_image * self.positive_fraction))
            num_negative = min(len(negative), self.batch_size_per_image - num_positive)
            self.num_sampled += num_positive + num_negative
            positives.append(_draw(labels, positive, num_positive, generator))
            negatives.append(_draw(labels, negative, num_negative, generator))
        self.seeds = ()
        return positives, negatives

    def _generator(self, seed: int, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed((seed + self.stream) % 2**63)


class CountedLosses(dict[str, Tensor]):
    """Losses by name, from RPN or RoI heads.

    Args:
        losses: the losses, each a mean.
        counts: number of things that each is a mean over, by name; a loss without a count is a mean over the images.
    """

    def __init__(self, losses: Mapping[str, Tensor], counts: Mapping[str, int | Tensor]):
        super().__init__(losses)
        self.counts = counts


def loss_counts(losses: Mapping[str, Tensor], num_images: int) -> dict[str, Tensor]:
    """Return what each loss is a mean over, as float32 scalars on the device of the losses."""
    counts: Mapping[str, int | Tensor] = getattr(losses, "counts", {})
    return {
        name: torch.as_tensor(counts.get(name, num_images), dtype=torch.float32, device=loss.device)
        for name, loss in losses.items()
    }


def _draw(labels: Tensor, indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Return a uint8 mask, shaped as `labels`, of `count` random ones of `indices`."""
    chosen = torch.randperm(len(indices), generator=generator, device=labels.device)[:count]
    mask = torch.zeros_like(labels, dtype=torch.uint8)
    mask[indices[chosen]] = 1
    return mask
