import os
from itertools import islice

import pytest
import torch
from helpers import input_error

from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset
from detbackbones.data.loader import (
    ReadableItems,
    TrainingSampler,
    evaluation_loader,
    take_items,
    training_loader,
    worker_count,
)
from detbackbones.errors import InputError

LANDSCAPE = [index % 3 > 0 for index in range(40)]
all_orders = pytest.mark.parametrize(
    "options", [{}, {"grouping_flags": LANDSCAPE}, {"repeat_factors": [1.0, 2.3] * 20, "grouping_flags": LANDSCAPE}]
)


def take(number, **options):
    """Samples of a dataset of 40 images."""
    return list(islice(TrainingSampler(40, seed=1, **options), number))


def merged(steps, world_size, batch_size, start=0, **options):
    """The samples of all processes, in the order of their positions."""
    shares = [
        take(steps * batch_size, start=start, rank=rank, world_size=world_size, batch_size=batch_size, **options)
        for rank in range(world_size)
    ]
    batches = [share[i : i + batch_size] for i in range(0, steps * batch_size, batch_size) for share in shares]
    return [sample for batch in batches for sample in batch]


@all_orders
@pytest.mark.parametrize("world_size,batch_size", [(1, 4), (2, 2), (4, 1)])
def test_the_order_depends_neither_on_the_processes_nor_on_the_batch_size(options, world_size, batch_size):
    assert merged(50, world_size, batch_size, **options) == take(200, **options)


@all_orders
def test_a_later_start_with_another_batch_size_continues_the_order(options):
    first = merged(19, 2, 3, **options)
    assert first + merged(10, 1, 8, start=114, **options) == take(194, **options)


def test_processes_take_whole_batches_in_turn():
    positions = [[seed[1] for _, seed in take(4, rank=rank, world_size=2, batch_size=2)] for rank in range(2)]
    assert positions == [[0, 1, 4, 5], [2, 3, 6, 7]]


def write_broken(write_coco):
    """A training dataset of two images, of which the first is cut off."""
    path, folder = write_coco()
    content = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(content[: len(content) // 2])
    return CocoDataset(read_annotations(path, folder, check_images=False), training=True)


def unreadable(item):
    return None if isinstance(item, tuple) else f"{item.path.name} is unreadable"


def test_a_readable_item_stays(write_coco):
    dataset = write_broken(write_coco)
    (image, target), problems = ReadableItems(dataset, unreadable, allowed=True)[1, (0, 7)]
    assert torch.equal(image, dataset[1, (0, 7)][0])
    assert target["seed"] == dataset[1, (0, 7)][1]["seed"]
    assert problems == []


def test_another_item_takes_the_place_of_an_unreadable_one(write_coco):
    items = ReadableItems(write_broken(write_coco), unreadable, allowed=True)
    for position in range(5):
        first, second = items[0, (0, position)], items[0, (0, position)]
        assert first[0][1]["image_id"] == 9
        assert set(first[1]) == {"a.jpg is unreadable"}
        assert first[0][1]["seed"] == second[0][1]["seed"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_item_that_is_not_allowed_is_one_error_message(write_coco, workers):
    items = ReadableItems(write_broken(write_coco), unreadable, allowed=False)
    batch = next(iter(training_loader(items, 4, workers, TrainingSampler(2, 0))))
    with input_error("a.jpg is unreadable; skip_unreadable=true skips such items"):
        take_items(batch, set())


def test_a_dataset_without_a_readable_item_is_one_error_message(write_coco):
    dataset = write_broken(write_coco)
    os.remove(dataset.annotations.image_dir / "b.jpg")
    items = ReadableItems(dataset, unreadable, allowed=True)
    with input_error("no training item can be read; the first: b.jpg is unreadable"):
        take_items([items[1, 0]], set())


def test_an_input_error_of_the_dataset_reaches_the_training_process():
    class Failing(list):
        def __getitem__(self, sample):
            raise InputError("transforms[0] failed")

    items = ReadableItems(Failing([0]), lambda item: None, allowed=True)
    batch = next(iter(training_loader(items, 1, 1, TrainingSampler(1, 0))))
    with input_error("transforms[0] failed"):
        take_items(batch, set())


def test_batches_are_items_and_problems(write_coco):
    items = ReadableItems(write_broken(write_coco), unreadable, allowed=True)
    problems = set()
    batch = take_items(next(iter(training_loader(items, 4, 0, TrainingSampler(2, 0)))), problems)
    assert [target["image_id"] for _, target in batch] == [9] * 4
    assert problems == {"a.jpg is unreadable"}


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
    assert worker_count(None, torch.device("cpu")) == 0
    assert worker_count(3, torch.device("cpu")) == 3
    assert 1 <= worker_count(None, torch.device("cuda")) <= 8
    assert worker_count(0, torch.device("cuda")) == 0
