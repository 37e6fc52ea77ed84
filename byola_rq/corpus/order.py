"""Order of the clips: a function of seed and epoch, computed for any step directly."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from byola_rq.runtime.rng import fold_in, permutation, sample_keys

IntArray = npt.NDArray[np.integer[Any]]


class ClipOrder:
    """Shuffled order of all clips in each epoch.

    Args:
        num_clips: Number of clips of the corpus.
        seed: Seed of the order.
    """

    def __init__(self, num_clips: int, *, seed: int) -> None:
        self.num_clips = num_clips
        self.seed = seed

    def epoch(self, epoch: int) -> IntArray:
        """Return the clip indices of an epoch in order, int64 `(clips,)`, every clip once."""
        return permutation(self.num_clips, seed=self.seed, epoch=epoch).numpy()


class WindowOrder(ClipOrder):
    """Order that shuffles shards, and clips within windows of consecutive shuffled shards.

    Only the files of one window are needed at a time, so a disk or network with slow random access
    can read them sequentially. In exchange, the clips of a batch come from `window_shards` shards
    instead of all.

    Args:
        shard: Shard of each clip, `(clips,)`.
        window_shards: Shards per window, at least 1; the last window may have fewer.
        seed: Seed of the order.
    """

    def __init__(self, shard: IntArray, *, window_shards: int, seed: int) -> None:
        super().__init__(len(shard), seed=seed)
        self.shard = shard
        self.window_shards = window_shards
        self._clips_in = np.bincount(shard)  # (shards,)

    def windows(self, epoch: int) -> list[tuple[IntArray, int]]:
        """Return the windows of an epoch: their shards, and the number of clips in them."""
        keys = sample_keys(self.seed, epoch, torch.arange(len(self._clips_in)))
        # Without folding in a word, a shard's key would equal that of the clip with its number.
        shards = fold_in(keys, "shard order").argsort(stable=True).numpy()
        windows = np.split(shards, range(self.window_shards, len(shards), self.window_shards))
        return [(window, int(self._clips_in[window].sum())) for window in windows]

    def epoch(self, epoch: int) -> IntArray:
        """Return the clip indices of an epoch: `ClipOrder.epoch`, stably sorted by window."""
        order = super().epoch(epoch)
        window_of = np.empty(len(self._clips_in), np.int32)
        for number, (shards, _) in enumerate(self.windows(epoch)):
            window_of[shards] = number
        return order[window_of[self.shard[order]].argsort(kind="stable")]


class StepSampler:
    """Iterable over (epoch, clip index) of the samples of steps `first_step` to `num_steps` - 1.

    The epochs' orders are concatenated: step s takes positions s * B to (s + 1) * B - 1, so no clip
    is dropped and training can begin at any step. Each item is int64 `(B / parts, 2)`.

    Args:
        order: Order of the clips.
        batch_size: Batch size B of a whole step.
        first_step: First step.
        num_steps: Step after the last.
        part: (number, parts): contiguous part of every step; `parts` divides B.
    """

    def __init__(
        self,
        order: ClipOrder,
        batch_size: int,
        *,
        first_step: int,
        num_steps: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.steps = range(first_step, num_steps)
        number, parts = part
        size = batch_size // parts
        self._part = slice(number * size, (number + 1) * size)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[IntArray]:
        num_clips = self.order.num_clips
        epoch = -1
        clips: IntArray = np.empty(0, np.int64)
        for step in self.steps:
            items = np.empty((self.batch_size, 2), np.int64)
            filled = 0
            while filled < self.batch_size:
                needed, rank = divmod(step * self.batch_size + filled, num_clips)
                if needed != epoch:
                    epoch, clips = needed, self.order.epoch(needed)
                part = clips[rank : rank + self.batch_size - filled]
                items[filled : filled + len(part)] = np.stack(
                    (np.full_like(part, epoch), part), axis=1
                )
                filled += len(part)
            yield items[self._part]
