from itertools import chain, islice

import pytest
import torch

from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset
from detbackbones.data.loader import TrainingSampler, evaluation_loader, training_loader, worker_count

LANDSCAPE = [index % 3 > 0 for index in range(40)]
both_orders = pytest.mark.parametrize("options", [{}, {"grouping_flags": LANDSCAPE, "batch_size": 4}])


def take(number, **options):
    """Samples of a dataset of 40 images."""
    return list(islice(TrainingSampler(40, seed=1, **options), number))


@both_orders
def test_an_epoch_has_every_image_once(options):
    stream = take(40 * 16, **options)  # five windows of 32 batches
    for epoch in range(16):
        assert sorted(index for index, (_, position) in stream if position // 40 == epoch) == list(range(40))


@both_orders
def test_every_sample_has_its_own_seed(options):
    assert len({seed for _, seed in take(640, **options)}) == 640


@both_orders
def test_epochs_and_seeds_differ_in_order(options):
    stream = [index for index, _ in take(80, **options)]
    assert stream[:40] != stream[40:]
    assert stream[:40] != [index for index, _ in islice(TrainingSampler(40, seed=2, **options), 40)]


@both_orders
def test_a_later_start_continues_the_stream(options):
    assert take(100, start=77, **options) == take(177, **options)[77:]


@both_orders
def test_processes_share_the_stream(options):
    parts = [take(80, rank=rank, world_size=2, **options) for rank in range(2)]
    assert list(chain.from_iterable(zip(*parts, strict=True))) == take(160, **options)


def test_a_batch_has_images_of_one_flag():
    stream = take(40 * 16, grouping_flags=LANDSCAPE, batch_size=4)
    batches = [[LANDSCAPE[index] for index, _ in stream[start : start + 4]] for start in range(0, len(stream), 4)]
    assert sum(len(set(batch)) > 1 for batch in batches) <= 5  # one per window
    orientations = [all(batch) for batch in batches[:32]]
    assert orientations not in (sorted(orientations), sorted(orientations, reverse=True))


@pytest.fixture
def dataset(write_coco):
    return CocoDataset(read_annotations(*write_coco()), training=False)


def test_evaluation_has_each_image_once_and_alone(dataset):
    assert [[target["image_id"] for _, target in batch] for batch in evaluation_loader(dataset, 0)] == [[5], [9]]
    assert [batch[0][1]["image_id"] for batch in evaluation_loader(dataset, 0, rank=1, world_size=2)] == [9]


def test_training_batches_are_lists_of_items(dataset):
    batch = next(iter(training_loader(dataset, 4, 0, TrainingSampler(2, 0))))
    assert len(batch) == 4
    assert {target["image_id"] for _, target in batch} == {5, 9}


def test_workers_are_used_beside_a_gpu_alone():
    assert worker_count(None, torch.device("cpu"), 1) == 0
    assert worker_count(3, torch.device("cpu"), 1) == 3
    assert 1 <= worker_count(None, torch.device("cuda"), 1) <= 8
    assert worker_count(0, torch.device("cuda"), 1) == 0
