"""Sampling with seeds: each image by itself; without seeds: torchvision's samples."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detbackbones.detectors import roi_heads, rpn
from detbackbones.detectors.sampling import CountedLosses, SeededSampler, loss_counts

SEEDS = (5, 0, 2**63 - 1)


def random_labels():
    """Labels of the elements of three images: many positive, few positive, few of both."""
    labels = [torch.randint(-1, 3, (200,)), torch.randint(-1, 1, (300,)), torch.tensor([1, 0, -1])]
    labels[1][:4] = 1
    return labels


def sample(labels, seeds=None, stream=0):
    """Return (positive, negative) of each image."""
    sampler = SeededSampler(64, 0.25, stream)
    if seeds is not None:
        sampler.set_seeds([{} if seed is None else {"seed": seed} for seed in seeds])
    return list(zip(*sampler(labels)))


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seeds", [None, (None, None, None)], ids=["no targets", "targets without seeds"])
def test_samples_without_seeds_are_torchvisions(seeds):
    labels = random_labels()
    torch.manual_seed(3)
    expected = list(zip(*BalancedPositiveNegativeSampler(64, 0.25)(labels)))
    torch.manual_seed(3)
    actual = sample(labels, seeds)
    for ours, theirs in zip(actual, expected, strict=True):
        assert equal(ours, theirs)
        assert [mask.dtype for mask in ours] == [mask.dtype for mask in theirs]


def test_samples_are_of_the_asked_kind_and_number():
    labels = random_labels()
    for image_labels, (positive, negative) in zip(labels, sample(labels, SEEDS)):
        assert (image_labels[positive.bool()] >= 1).all()
        assert (image_labels[negative.bool()] == 0).all()
        num_positive = min(16, int((image_labels >= 1).sum()))
        assert positive.sum() == num_positive
        assert negative.sum() == min(64 - num_positive, int((image_labels == 0).sum()))


def test_a_seeded_sample_depends_on_its_image_alone():
    """Not on batch mates, their seeds, the order, or the global generator."""
    labels = random_labels()
    expected = sample(labels, SEEDS)
    torch.manual_seed(1)
    assert all(map(equal, reversed(expected), sample(labels[::-1], SEEDS[::-1])))
    assert all(equal(sample([image], [seed])[0], e) for image, seed, e in zip(labels, SEEDS, expected))
    assert equal(sample(labels, (5, None, None))[0], expected[0])


def test_a_seeded_sample_leaves_the_global_generator():
    labels = random_labels()
    state = torch.get_rng_state()
    sample(labels, SEEDS)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_and_streams_give_different_samples():
    labels = random_labels()[:1]
    first = sample(labels, [5])[0]
    assert not equal(sample(labels, [6])[0], first)
    assert not equal(sample(labels, [5], stream=roi_heads.SEED_STREAM)[0], first)
    assert roi_heads.SEED_STREAM != rpn.SEED_STREAM


def test_seeds_serve_one_call():
    sampler, labels = SeededSampler(64, 0.25, 0), random_labels()
    sampler.set_seeds([{"seed": seed} for seed in SEEDS])
    sampler(labels)
    torch.manual_seed(3)
    first = sampler(labels)[0]
    torch.manual_seed(3)
    assert equal(first, SeededSampler(64, 0.25, 0)(labels)[0])


def test_seeds_for_another_number_of_images_are_an_error():
    sampler = SeededSampler(64, 0.25, 0)
    sampler.set_seeds([{"seed": 1}])
    with pytest.raises(ValueError, match="zip"):
        sampler(random_labels())


def test_the_number_of_samples():
    sampler = SeededSampler(64, 0.25, 0)
    for labels in (random_labels(), random_labels()[:1]):
        samples = sampler(labels)
        assert sampler.num_sampled == sum(int(mask.sum()) for masks in samples for mask in masks)


def test_losses_without_counts_are_means_over_images():
    losses = CountedLosses({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"a": 7})
    assert loss_counts(losses, 3) == {"a": 7, "b": 3}
    assert loss_counts(dict(losses), 3) == {"a": 3, "b": 3}
