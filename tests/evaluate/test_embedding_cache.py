"""A row counts only for the file, the model and the place it was computed from."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.audio.frontend import Statistics
from evaluate.embedding_cache import EmbeddingCache, digest_places, digest_task, make_clip_keys
from evaluate.tasks.task import Clip, Task, TaskError
from tests.conftest import ROOT
from tests.refusal import refused

NUM_CLIPS, DIM = 5, 3


def write_clips(folder: Path) -> list[Clip]:
    clips = []
    for number in range(NUM_CLIPS):
        path = folder / f"{number}.wav"
        path.write_bytes(bytes([number] * 8))
        clips.append(Clip(path, path.name, "a", "train"))
    return clips


def describe(clips, positions):
    """Stands for a model: rows that tell the content of the file, and of it alone."""
    rows = [list(clips[p].path.read_bytes()[:DIM]) for p in positions]
    return np.array(rows, dtype=np.float32).reshape(len(rows), DIM)


def change(path: Path, value: int) -> None:
    """Other bytes of the same number, and the old modification time put back."""
    before = path.stat()
    # The file system's clock ticks every 4 to 10 ms; until it has, nothing tells of the change.
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(bytes([value] * 8))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


change_step = st.tuples(st.just("change"), st.integers(0, NUM_CLIPS - 1), st.integers(0, 255))
embed_step = st.tuples(st.just("embed"), st.sets(st.integers(0, NUM_CLIPS - 1)), st.booleans())


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.one_of(change_step, embed_step), max_size=8))
def test_a_changed_file_never_meets_its_old_row(steps):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = write_clips(folder)
        cache = EmbeddingCache(folder / "cache")
        for kind, which, value in steps:
            if kind == "change":
                change(clips[which].path, value)
                continue
            rows = cache.open_rows({"model": "m"}, make_clip_keys(clips), DIM)
            positions = sorted(which & set(rows.missing))
            if positions:
                rows.write(positions, describe(clips, positions))
            if value:
                rows.sync()  # else: killed before
            again = cache.open_rows({"model": "m"}, make_clip_keys(clips), DIM)
            done = sorted(set(range(NUM_CLIPS)) - set(again.missing))
            np.testing.assert_array_equal(again.embeddings[done], describe(clips, done))
            if value:
                assert set(positions) <= set(done)  # and what was synced is there


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path)


def fill(cache, clips, key):
    rows = cache.open_rows(key, make_clip_keys(clips), DIM)
    rows.write(rows.missing, describe(clips, rows.missing))
    rows.sync()
    return rows


OTHER_KEYS = {
    "weights": {"weights_sha256": "b"},
    "statistics": {"statistics": {"mean": 0.1, "std": 1.0}},
    "frontend": {"frontend": {"n_mels": 32}},
    "unit": {"unit_seconds": 2.0},
}


@pytest.mark.parametrize("other", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_another_model_or_unit_has_rows_of_its_own(tmp_path, clips, other):
    key = {"weights_sha256": "a", "statistics": {"mean": 0.0, "std": 1.0}, "unit_seconds": 1.0}
    cache = EmbeddingCache(tmp_path / "cache")
    fill(cache, clips, key)
    assert cache.open_rows(key, make_clip_keys(clips), DIM).missing == []
    assert cache.open_rows({**key, **other}, make_clip_keys(clips), DIM).missing == [0, 1, 2, 3, 4]


def test_clips_in_another_order_or_number_are_not_mixed_up(tmp_path, clips):
    cache = EmbeddingCache(tmp_path / "cache")
    fill(cache, clips, {})
    turned = clips[::-1]
    rows = cache.open_rows({}, make_clip_keys(turned), DIM)
    done = sorted(set(range(NUM_CLIPS)) - set(rows.missing))
    np.testing.assert_array_equal(rows.embeddings[done], describe(turned, done))
    assert len(cache.open_rows({}, make_clip_keys(clips[:3]), DIM).missing) == 3


def test_keys_tell_members_and_windows_of_one_file_apart(clips):
    path = clips[0].path
    same_file = [
        Clip(path, "a", "a", "train", member="x.wav"),
        Clip(path, "b", "a", "train", member="y.wav"),
        Clip(path, "c", "a", "train", start_seconds=0.5),
        Clip(path, "d", "a", "train"),
    ]
    assert len(np.unique(make_clip_keys(same_file), axis=0)) == 4
    assert digest_places(same_file[:2]) != digest_places(same_file[1::-1])


def test_touched_file_is_another(clips):
    before = make_clip_keys(clips)
    os.utime(clips[2].path, ns=(0, 1))
    assert (before != make_clip_keys(clips)).any(axis=1).tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_file_that_is_gone(clips):
    clips[1].path.unlink()
    with refused(TaskError, "unreadable", clips[1].path):
        make_clip_keys(clips)


def test_task_digest_knows_labels_parts_and_unit(clips):
    task = Task("t", Path("x"), tuple(clips), False, 1.0)
    keys = make_clip_keys(clips)
    relabelled = (Clip(clips[0].path, clips[0].file_name, "b", "train"), *clips[1:])
    moved = (Clip(clips[0].path, clips[0].file_name, "a", "test"), *clips[1:])
    bytes_alone = (Clip(clips[0].path, "\udce9.wav", "\udce9", "train"), *clips[1:])
    tasks = [
        task,
        Task("t", Path("x"), relabelled, False, 1.0),
        Task("t", Path("x"), moved, False, 1.0),
        Task("t", Path("x"), bytes_alone, False, 1.0),
        Task("t", Path("x"), tuple(clips), False, 1.5),
        Task("t", Path("x"), tuple(clips), True, 1.0),
        Task("t", Path("x"), tuple(clips), False, 1.0, split_rule="given; limit 3"),
    ]
    assert len({digest_task(each, keys) for each in tasks}) == len(tasks)
    assert digest_task(task, keys) == digest_task(
        Task("t", Path("y"), task.clips, False, 1.0), keys
    )


def test_statistics_come_back_to_the_last_bit(tmp_path):
    cache = EmbeddingCache(tmp_path)
    statistics = Statistics(mean=-7.123456789012345, std=1 / 3)
    cache.write_statistics({"clips": "a"}, statistics)
    assert cache.read_statistics({"clips": "a"}) == statistics
    assert cache.read_statistics({"clips": "b"}) is None
    (path,) = tmp_path.rglob("*.json")
    path.write_text('{"mean": 1')
    assert cache.read_statistics({"clips": "a"}) is None  # damaged: measured again


def test_damaged_arrays_are_named(tmp_path, clips):
    cache = EmbeddingCache(tmp_path / "cache")
    fill(cache, clips, {})
    (path,) = tmp_path.rglob("embeddings.npy")
    path.write_bytes(path.read_bytes()[:20])
    with refused(TaskError, "damaged", path.parent):
        cache.open_rows({}, make_clip_keys(clips), DIM)


FULL_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from evaluate.embedding_cache import EmbeddingCache
from evaluate.tasks.task import TaskError
keys = np.zeros((1000, 16), dtype=np.uint8) + np.arange(1, 17, dtype=np.uint8)
rows = EmbeddingCache(Path(sys.argv[1])).open_rows({}, keys, 256)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # of 1,024,128 bytes
done = 0
try:
    for start in range(0, 1000, 100):
        rows.write(list(range(start, start + 100)), np.full((100, 256), start, np.float32))
        rows.sync()
        done = start + 100
except TaskError as error:
    print(done, error.code, error.path.parent)
"""


def test_full_disk_keeps_what_was_written(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # 3 x 100 rows of 1 KiB below 400,000 bytes
    assert run.stdout == f"300 unwritable {tmp_path}\n"
    keys = np.zeros((1000, 16), dtype=np.uint8) + np.arange(1, 17, dtype=np.uint8)
    rows = EmbeddingCache(tmp_path).open_rows({}, keys, 256)
    assert rows.missing == list(range(300, 1000))
    assert (rows.embeddings[:300].reshape(3, -1) == [[0], [100], [200]]).all()
