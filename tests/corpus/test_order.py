"""The order of clips: every clip once an epoch, any step at once, windows that stay together."""

import numpy as np
import pytest

from byola_rq.corpus.order import ClipOrder, StepSampler, WindowOrder
from byola_rq.runtime.rng import permutation

# 7 shards of 0 to 40 clips, one of them empty: rows of an index are ordered by shard.
CLIPS_PER_SHARD = [13, 1, 40, 0, 22, 5, 9]
SHARD = np.repeat(np.arange(7, dtype=np.int32), CLIPS_PER_SHARD)


def samples_of(order: ClipOrder, batch_size: int, steps: range) -> list[tuple[int, int]]:
    sampler = StepSampler(order, batch_size, first_step=steps.start, num_steps=steps.stop)
    batches = list(sampler)
    assert len(batches) == len(sampler) == len(steps)
    assert all(batch.shape == (batch_size, 2) and batch.dtype == np.int64 for batch in batches)
    return [(int(epoch), int(clip)) for batch in batches for epoch, clip in batch]


ORDERS = [
    ClipOrder(90, seed=3),
    WindowOrder(SHARD, window_shards=2, seed=3),
    WindowOrder(SHARD, window_shards=100, seed=3),
]


def test_the_full_order_is_the_addressed_permutation() -> None:
    order = ClipOrder(90, seed=3)
    for epoch in range(3):
        expected = permutation(90, seed=3, epoch=epoch).tolist()
        assert order.epoch(epoch).tolist() == expected


@pytest.mark.parametrize("order", ORDERS)
def test_steps_take_the_places_of_an_endless_order(order: ClipOrder) -> None:
    endless = [(epoch, int(clip)) for epoch in range(4) for clip in order.epoch(epoch)]
    # A batch within an epoch, across its end, exactly at its end, and longer than an epoch.
    for batch_size in (1, 7, 45, 90, 200):
        steps = len(endless) // batch_size
        assert samples_of(order, batch_size, range(steps)) == endless[: steps * batch_size]


@pytest.mark.parametrize("order", ORDERS)
def test_any_step_can_be_the_first(order: ClipOrder) -> None:
    whole = samples_of(order, 7, range(40))
    for first in (1, 12, 13, 39, 40):
        assert samples_of(order, 7, range(first, 40)) == whole[7 * first :]


@pytest.mark.parametrize("order", ORDERS)
def test_every_clip_comes_once_an_epoch(order: ClipOrder) -> None:
    orders = [order.epoch(epoch).tolist() for epoch in range(5)]
    assert all(sorted(each) == list(range(90)) for each in orders)
    assert len({tuple(each) for each in orders}) == 5
    assert orders[2] == order.epoch(2).tolist()


def test_seeds_give_other_orders() -> None:
    assert ClipOrder(90, seed=4).epoch(0).tolist() != ORDERS[0].epoch(0).tolist()
    other = WindowOrder(SHARD, window_shards=2, seed=4)
    assert other.epoch(0).tolist() != ORDERS[1].epoch(0).tolist()
    assert [shards.tolist() for shards, _ in other.windows(0)] != [
        shards.tolist() for shards, _ in WindowOrder(SHARD, window_shards=2, seed=3).windows(0)
    ]


def test_windows_are_shuffled_shards() -> None:
    order = WindowOrder(SHARD, window_shards=2, seed=0)
    firsts = set()
    for epoch in range(30):
        windows = order.windows(epoch)
        assert [len(shards) for shards, _ in windows] == [2, 2, 2, 1]
        assert sorted(np.concatenate([shards for shards, _ in windows])) == list(range(7))
        clips = order.epoch(epoch)
        begin = 0
        for shards, num_clips in windows:
            part = clips[begin : begin + num_clips]
            assert set(SHARD[part]) == set(shards) - {3}  # the empty shard
            begin += num_clips
        assert begin == len(clips)
        firsts.add(int(windows[0][0][0]))
    assert firsts == set(range(7))


def test_within_a_window_clips_keep_their_full_order() -> None:
    """So the window's shards are mixed as well as the whole corpus would be."""
    full = ClipOrder(90, seed=0).epoch(5).tolist()
    order = WindowOrder(SHARD, window_shards=2, seed=0)
    clips, begin = order.epoch(5).tolist(), 0
    for shards, num_clips in order.windows(5):
        expected = [clip for clip in full if SHARD[clip] in shards]
        assert clips[begin : begin + num_clips] == expected
        begin += num_clips
    everything = WindowOrder(SHARD, window_shards=7, seed=0)
    assert everything.epoch(5).tolist() == full


def test_orders_are_uniform() -> None:
    """Count how often each shard is first and each clip is at each place: about equally often."""
    order = WindowOrder(np.repeat(np.arange(4), 3), window_shards=1, seed=1)
    counts = np.zeros((12, 12))
    for epoch in range(1500):
        counts[np.arange(12), order.epoch(epoch)] += 1
    # Expected 125 in each cell with a standard deviation of 11; 144 cells.
    assert abs(counts - 125).max() < 5 * np.sqrt(125 * 11 / 12)
