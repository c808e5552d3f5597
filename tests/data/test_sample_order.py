from collections import Counter

import pytest

from detbackbones.data.sample_order import SampleOrder

LANDSCAPE = [index % 3 > 0 for index in range(40)]
both_orders = pytest.mark.parametrize("options", [{}, {"grouping_flags": LANDSCAPE}])


def take(number, seed=1, size=40, **options):
    order = SampleOrder(size, seed, **options)
    return [order[position] for position in range(number)]


@both_orders
def test_an_epoch_has_every_image_once(options):
    stream = take(40 * 16, **options)  # 20 windows of two blocks of 16 samples
    for epoch in range(16):
        assert sorted(index for index, (_, position) in stream if position // 40 == epoch) == list(range(40))


@both_orders
def test_every_sample_has_its_own_seed(options):
    assert len({seed for _, seed in take(640, **options)}) == 640


@both_orders
def test_epochs_and_seeds_differ_in_order(options):
    stream = [index for index, _ in take(80, **options)]
    assert stream[:40] != stream[40:]
    assert stream[:40] != [index for index, _ in take(40, seed=2, **options)]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8, 16])
def test_at_most_one_batch_per_window_has_both_flags(batch_size):
    flags = [index % 3 > 0 for index in range(600)]
    stream = [flags[index] for index, _ in take(512 * 3, size=600, grouping_flags=flags)]
    batches = [set(stream[start : start + batch_size]) for start in range(0, len(stream), batch_size)]
    assert sum(len(batch) > 1 for batch in batches) <= 3


def test_the_blocks_of_a_window_are_shuffled():
    flags = [index % 3 > 0 for index in range(600)]
    orientations = [flags[index] for index, _ in take(512, size=600, grouping_flags=flags)]
    assert orientations not in (sorted(orientations), sorted(orientations, reverse=True))


def test_positions_can_be_visited_in_any_order():
    factors = [1.0, 1.5, 2.25, 3.0] * 10
    for options in ({}, {"grouping_flags": LANDSCAPE}, {"repeat_factors": factors}):
        order = SampleOrder(40, 1, **options)
        assert [order[position] for position in reversed(range(300))][::-1] == take(300, **options)


def test_repeat_factors_hold_on_average():
    factors = [1.0, 1.3, 2.5, 4.0]
    stream = take(4 * 4000, size=4, repeat_factors=factors)
    counts = Counter(index for index, _ in stream)
    epochs = counts[0]
    assert [counts[index] / epochs for index in range(4)] == pytest.approx(factors, rel=0.03)


def test_an_epoch_has_every_image_as_often_as_its_factor():
    stream = [index for index, _ in take(70, size=3, repeat_factors=[1.0, 2.0, 4.0])]
    for start in range(0, 70, 7):
        assert sorted(stream[start : start + 7]) == [0, 1, 1, 2, 2, 2, 2]


def test_factors_of_one_change_only_the_permutation():
    indices = [index for index, _ in take(40, repeat_factors=[1.0] * 40)]
    assert sorted(indices) == list(range(40))
