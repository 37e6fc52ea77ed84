"""Windows of shards are read before their first batch, one window ahead and no more."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from byola_rq.corpus import read_ahead
from byola_rq.corpus.order import StepSampler, WindowOrder
from byola_rq.corpus.read_ahead import read_windows_ahead
from byola_rq.errors import CorpusError
from tests.refusal import refused

SHARD = np.repeat(np.arange(6, dtype=np.int32), [13, 1, 40, 22, 5, 9])
PATHS = [Path(f"pcm-{number:05d}.npy") for number in range(6)]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """Record paths instead of reading files: one list of paths per window."""
    windows: list[list[Path]] = []

    def read(paths: list[Path], must_stop: threading.Event) -> None:
        time.sleep(0.001)
        windows.append(paths)

    monkeypatch.setattr(read_ahead, "read_whole", read)
    return windows


@pytest.mark.parametrize("window_shards", [1, 2, 6, 10])
@pytest.mark.parametrize(
    ("first_step", "part"), [(0, (0, 1)), (1, (1, 2)), (9, (0, 1)), (25, (3, 4))]
)
def test_windows_are_read_before_they_are_used(
    begun: list[list[Path]], window_shards: int, first_step: int, part: tuple[int, int]
) -> None:
    order = WindowOrder(SHARD, window_shards=window_shards, seed=0)
    sampler = StepSampler(order, 8, first_step=first_step, num_steps=50, part=part)
    windows = [window for epoch in range(6) for window in order.windows(epoch)]
    ends = np.cumsum([num_clips for _, num_clips in windows])
    first = int(np.searchsorted(ends, first_step * 8, side="right"))
    ahead = read_windows_ahead(sampler, order, PATHS)
    for step, expected in enumerate(sampler, start=first_step):
        assert np.array_equal(next(ahead), expected)
        last = int(np.searchsorted(ends, (step + 1) * 8 - 1, side="right"))
        needed = [[PATHS[shard] for shard in shards] for shards, _ in windows[first : last + 1]]
        assert begun[: len(needed)] == needed
        # One window is read ahead, and no more.
        assert len(begun) <= len(needed) + 1
    assert next(ahead, None) is None


def test_files_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_BLOCK_BYTES", 1000)
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"x" * 4500)
    counted = 0

    class CountingFile:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

        def readinto(self, buffer):
            nonlocal counted
            num = self.file.readinto(buffer)
            counted += num
            return num

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: CountingFile(opened(self, *a, **k)))
    read_ahead.read_whole(paths, threading.Event())
    assert counted == 9000


def test_a_shard_that_cannot_be_read_is_an_error() -> None:
    order = WindowOrder(SHARD, window_shards=2, seed=0)
    sampler = StepSampler(order, 8, first_step=0, num_steps=40)
    with refused(CorpusError, "unreadable") as caught:
        list(read_windows_ahead(sampler, order, PATHS))
    assert caught.value.path in PATHS


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no file without an end")
def test_a_stopped_run_does_not_read_on(tmp_path: Path) -> None:
    """The reader stops within a block: nobody could wait for the end of the second window."""
    order = WindowOrder(SHARD, window_shards=1, seed=0)
    paths = [Path("/dev/zero")] * len(PATHS)
    (shards, _), *_ = order.windows(0)
    paths[shards[0]] = tmp_path / "first"
    paths[shards[0]].write_bytes(b"x")
    batches = read_windows_ahead(StepSampler(order, 1, first_step=0, num_steps=100), order, paths)
    next(batches)
    batches.close()
