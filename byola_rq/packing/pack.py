"""Packing of clips into shards: decoded in parallel, written in order, each shard atomically."""

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.errors import CorpusError
from byola_rq.packing.decode import ClipRules, DecodedClip, decode_clips, jobs_of
from byola_rq.packing.plan import PackingPlan, fix_plan
from byola_rq.packing.shards import (
    PackingError,
    ShardSummary,
    ShardWriter,
    open_parts,
    read_summary,
)
from byola_rq.runtime.lock import locked
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.sandbox import Failure, Limits
from byola_rq.sources.clip_source import ClipSource

_SPARE_BYTES = 16_000_000
_INDEX_BYTES = 400  # per clip, in the shards' parts and the index
_SECONDS_BETWEEN_NOTES = 0.2


def pack_shards(
    clips: Sequence[ClipSource],
    folder: Path,
    plan: PackingPlan,
    *,
    rules: ClipRules,
    limits: Limits,
    share: tuple[int, int],
    num_workers: int,
) -> None:
    """Pack the shards of a share of the work that are not complete yet.

    Args:
        clips: All listed clips.
        folder: Folder of the corpus, created if missing.
        plan: Plan of the corpus.
        rules: Allowed lengths of a clip.
        limits: Time and memory for decoding one clip.
        share: (i, n): every n-th shard, beginning with shard i - 1.
        num_workers: Number of decoding processes.

    Raises:
        CorpusError: If the folder has another plan, or another process packs this share.
        PackingError: If there is not enough disk space.
        OSError: If a file cannot be written; complete shards are kept.
    """
    shards = plan.shards_of(share)
    whole = {shard: summary for shard in shards if (summary := read_summary(folder, shard))}
    todo = [shard for shard in shards if shard not in whole]
    if not todo:
        return
    _check_space(folder, plan, todo)
    fix_plan(folder, plan)
    places = itertools.chain.from_iterable(map(plan.clips_of, todo))
    results = decode_clips(
        jobs_of([clips[place] for place in places]),
        rules,
        num_workers=num_workers,
        limits=limits,
    )
    name = f"{share[0]}-of-{share[1]}"
    counts = _Counts(sum(len(plan.clips_of(shard)) for shard in shards), list(whole.values()))
    with (
        _locked_share(folder, name),
        _partial_files_removed(folder, name),
        counts,
        _finished_aside() as finish,
        contextlib.closing(results),
    ):
        for shard in todo:
            writer = ShardWriter(folder, shard, name)
            try:
                for place in plan.clips_of(shard):
                    result = next(results)
                    _store(writer, clips[place], result)
                    counts.add(result)
                finish(writer)
            except BaseException:
                writer.discard()
                raise


@contextlib.contextmanager
def _partial_files_removed(folder: Path, name: str) -> Iterator[None]:
    """Remove partial files at the end, also those without a writer because of a signal."""
    try:
        yield
    finally:
        for partial in open_parts(folder).glob(f"pcm-*.{name}.partial"):
            partial.unlink(missing_ok=True)


def _store(writer: ShardWriter, clip: ClipSource, result: DecodedClip | Failure) -> None:
    if isinstance(result, Failure):
        writer.reject(str(clip), result.reason)
    else:
        writer.append(
            result.samples,
            clip_id=clip.clip_id,
            source=str(clip),
            original_rate=result.original_rate,
            labels=clip.labels,
        )


@contextlib.contextmanager
def _finished_aside() -> Iterator[Callable[[ShardWriter], None]]:
    """Give a function that finishes a shard in a thread while the next one is filled.

    Digest and disk take as long as many cores take to decode a shard.
    """
    pending: list[Future[None]] = []

    def finish(writer: ShardWriter) -> None:
        if pending:
            pending.pop().result()
        pending.append(thread.submit(_finish, writer))

    with ThreadPoolExecutor(1) as thread:
        yield finish
    for each in pending:
        each.result()


def _finish(writer: ShardWriter) -> None:
    try:
        writer.finish()
    finally:
        writer.discard()


class _Counts:
    """Progress of packing: clips per second, hours, rejected clips."""

    def __init__(self, num_clips: int, whole: list[ShardSummary]) -> None:
        self.rejected = sum(summary.rejected for summary in whole)
        self.num_samples = sum(summary.num_samples for summary in whole)
        self._new = self._untold = 0
        done = sum(summary.clips + summary.rejected for summary in whole)
        self._bar = ProgressBar("packing", num_clips, done)

    def __enter__(self) -> None:
        self._bar.__enter__()
        self._started = self._told = time.monotonic()

    def __exit__(self, *error: Any) -> None:
        self._tell()
        self._bar.__exit__(*error)

    def add(self, result: DecodedClip | Failure) -> None:
        self._new += 1
        self._untold += 1
        if isinstance(result, Failure):
            self.rejected += 1
        else:
            self.num_samples += len(result.samples)
        if time.monotonic() - self._told > _SECONDS_BETWEEN_NOTES:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = self._new / max(self._told - self._started, 1e-9)
        hours = self.num_samples / SAMPLE_RATE / 3600
        self._bar.advance(
            self._untold, f"{rate:.0f} clips/s  {hours:.2f} h  {self.rejected} rejected"
        )
        self._untold = 0


def _check_space(folder: Path, plan: PackingPlan, todo: Sequence[int]) -> None:
    num_clips = sum(len(plan.clips_of(shard)) for shard in todo)
    bytes_per_clip = 2 * SAMPLE_RATE * plan.mean_seconds * 1.05 + _INDEX_BYTES
    needed = num_clips * bytes_per_clip + _SPARE_BYTES
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        message = (
            f"{folder}: packing needs about {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free. "
            "Make room, or choose another disk"
        )
        raise PackingError(message, code="unwritable", path=folder, value=free)


def _locked_share(folder: Path, name: str) -> contextlib.AbstractContextManager[None]:
    """Lock a share, so that no two processes pack it."""

    def held(owner: str) -> CorpusError:
        message = f"{folder}: another process is packing this ({name}; {owner}); wait until it ends"
        return CorpusError(message, code="held", path=folder, value=name)

    return locked(open_parts(folder) / f"{name}.lock", patience=0, held=held)
