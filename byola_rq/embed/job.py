"""Embedding of many clips into one array on disk, by one or many processes, resumable."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from byola_rq.audio.encoded import reason_of
from byola_rq.corpus.order import IntArray
from byola_rq.embed.embedder import Embedder
from byola_rq.embed.folder import EmbeddingFolder
from byola_rq.embed.listing import list_clips
from byola_rq.embed.rows import EmbeddingRows
from byola_rq.errors import AudioError
from byola_rq.runtime import distributed as ranks
from byola_rq.runtime.prefetch import map_ahead
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.signals import StoppedError, stop_on_signals

Failed = tuple[int, str]  # index of a clip that could not be decoded, and the reason


class Embedded(NamedTuple):
    """Path of the array that was written, and the numbers of its clips and of those left out."""

    path: Path
    num_clips: int
    num_rejected: int


def embed_clips(
    embedder: Embedder,
    sources: Sequence[Path],
    out: Path,
    *,
    num_workers: int,
    overwrite: bool = False,
    frames: bool = False,
    strict: bool = False,
) -> Embedded:
    """Embed every clip of folders, manifests or files into `out`.

    Writes `embeddings.npy` (float32 `(clips, D)`), `index.csv` (row, path, seconds) and
    `meta.json`. With `frames`, it writes `frames.npy` instead (float32 `(frames of all clips,
    D)`): `index.csv` gives the `first_frame` and `num_frames` of each clip, and `meta.json` their
    times. A clip that the sources name several times has as many rows. Clips that cannot be
    embedded are listed in `rejected.csv` (source, reason). Clips of more than 240 s are decoded
    and embedded in windows. A content key (weights, frontend, statistics, and each clip's real
    path, size and modification time) identifies the job: the same job is resumed or already done;
    another one is an error.

    If `ranks.process_group` has connected several processes, all must call this, each with its own
    device; they share the work, and only rank 0 writes to `out`. Batches depend only on the clips.
    So the number of processes and interruptions do not change a bit of the result, given devices
    of one kind, or on the CPU one number of threads (torchrun sets `OMP_NUM_THREADS=1` by
    default).

    Args:
        embedder: Embedder on the device to use.
        sources: Sources of clips, as for pretraining.
        out: Output folder, created if missing.
        num_workers: Number of decoding threads per process.
        overwrite: Replace what another job, or none, wrote there.
        frames: Keep every frame embedding; those of one clip are in memory together.
        strict: Stop at the first clip that cannot be embedded.

    Raises:
        AudioError, CorpusError: If a source cannot be used, if no clip can be embedded (with
            `strict`: if one cannot), or if `out` has another job, is locked by another process, or
            cannot be written.
        StoppedError: If Ctrl-C or SIGTERM stopped it.
    """
    try:
        with stop_on_signals(), ExitStack() as lock:
            listed = list_clips(sources, embedder.clips, strict=strict)
            rows = EmbeddingRows(embedder, listed.clips, frames=frames)
            meta = _describe(rows, listed.identities)
            folder = EmbeddingFolder(out, meta["content_key"], rows.file_name)

            def open_folder() -> bytes:
                if not folder.is_whole() or folder.has_marks():
                    lock.enter_context(folder.locked())
                    # Checked again: the previous owner of the lock may have finished this job.
                    if not folder.is_whole():
                        if not overwrite:
                            folder.check_free()
                        return folder.open(rows.num_rows, embedder.embedding_dim).tobytes()
                    folder.remove_marks()
                return b""

            is_done = np.frombuffer(ranks.broadcast_bytes(open_folder), np.bool_)
            if len(is_done):
                failed = _fill(rows, folder, is_done, num_workers, strict=strict)
            else:
                read_failed = partial(folder.read_failed, len(listed.clips.sources))
                failed = json.loads(ranks.broadcast_bytes(read_failed))
            sources_of = listed.clips.sources
            rejected = [(str(sources_of[place]), reason) for place, reason in failed]
            rejected = listed.rejected + rejected
            with ranks.raise_on_all_ranks():
                if ranks.is_main():
                    folder.write_rejected(rejected)
                    if len(is_done):
                        _finish(rows, folder, meta, failed)
            return Embedded(folder.embeddings, len(sources_of) - len(failed), len(rejected))
    except StoppedError as error:
        stopped = StoppedError(f"{out}: {error}; the same command resumes", error.number, path=out)
        stopped.is_reported = not ranks.is_main()  # torchrun stops all ranks
        raise stopped from None


def _finish(
    rows: EmbeddingRows, folder: EmbeddingFolder, meta: dict[str, Any], failed: list[Failed]
) -> None:
    """Complete the folder; clips that could not be decoded have no rows."""
    is_embedded = np.ones(len(rows.clips), np.bool_)
    is_embedded[[place for place, _ in failed]] = False
    index = rows.index(folder.rows(), is_embedded)
    if failed:
        meta = {**meta, **rows.count(is_embedded), "failed": failed}
    folder.finish(meta, index, np.repeat(is_embedded, rows.counts))


def _fill(
    rows: EmbeddingRows,
    folder: EmbeddingFolder,
    is_done: npt.NDArray[np.bool_],
    num_workers: int,
    *,
    strict: bool,
) -> list[Failed]:
    """Embed the batches that are not done, in rounds of one batch per rank.

    Returns:
        Clips of all ranks that could not be decoded.

    Raises:
        AudioError: If no clip can be decoded, or with `strict` if one cannot.
    """
    # A batch with missing rows is computed whole: a part of it may differ in the last bits.
    batches = [each for each in rows.batches() if not is_done[rows.numbers(each)].all()]
    num_left = sum(map(len, batches))
    own_clips = [
        int(clip) for batch in batches[ranks.rank() :: ranks.world_size()] for clip in batch
    ]
    at_once = [clip for clip in own_clips if not rows.is_long(clip)]
    decoded = map_ahead(rows.read, at_once, num_workers)
    gathered: list[_Part] = []
    errors: dict[int, AudioError] = {}
    num_clips = len(rows.clips)
    with closing(decoded), ProgressBar("embedding", num_clips, num_clips - num_left) as bar:
        try:
            for first in range(0, len(batches), ranks.world_size()):
                of_round = batches[first : first + ranks.world_size()]
                with ranks.raise_on_all_ranks():
                    # Rows of the previous round, inside the block: a write error stops all ranks.
                    _add(rows, folder, gathered)
                    own = _Part.empty(rows.embedder.embedding_dim)
                    if ranks.rank() < len(of_round):
                        own = _compute(rows, of_round[ranks.rank()], decoded, errors)
                        if strict and errors:
                            raise next(iter(errors.values()))
                gathered = _gather(rows, own, of_round)
                bar.advance(sum(map(len, of_round)))
            with ranks.raise_on_all_ranks():
                _add(rows, folder, gathered)
        except BaseException:
            if ranks.is_main():
                folder.flush()  # an interruption loses only its round
            raise
    reasons = []
    for place, error in errors.items():
        source = rows.clips.sources[place]
        reasons.append((place, reason_of(error, source, source.file)))
    failed = [(place, why) for of_rank in ranks.all_gather_json(reasons) for place, why in of_rank]
    with ranks.raise_on_all_ranks():
        if len(failed) == num_clips and errors:
            raise next(iter(errors.values()))
    return sorted(failed)


class _Part(NamedTuple):
    """Batch of clips, their rows, and which of the clips could be decoded, bool `(B,)`."""

    batch: IntArray
    rows: Tensor
    is_embedded: Tensor

    @classmethod
    def empty(cls, dim: int) -> "_Part":
        return cls(np.empty(0, np.int64), torch.empty(0, dim), torch.empty(0, dtype=torch.bool))


def _compute(
    rows: EmbeddingRows,
    batch: IntArray,
    decoded: Iterator[Tensor | AudioError],
    errors: dict[int, AudioError],
) -> _Part:
    """Embed a batch; add the errors of clips that cannot be decoded to `errors`."""
    own, failed = rows.compute(batch, decoded)
    for place, error in failed.items():
        errors[int(batch[place])] = error.with_traceback(
            None
        )  # a traceback keeps the sound in memory
    is_embedded = torch.ones(len(batch), dtype=torch.bool)
    is_embedded[list(failed)] = False
    return _Part(batch, own, is_embedded)


def _add(rows: EmbeddingRows, folder: EmbeddingFolder, gathered: Sequence[_Part]) -> None:
    for batch, own, is_embedded in gathered:
        kept = is_embedded.numpy()
        own_rows = own.numpy()[np.repeat(kept, rows.counts[batch])]
        folder.add(rows.numbers(batch[kept]), own_rows)


def _gather(rows: EmbeddingRows, own: _Part, of_round: Sequence[IntArray]) -> list[_Part]:
    """Gather the rows of all ranks in this round on rank 0; empty elsewhere."""
    if not ranks.is_main():
        if len(own.batch):
            dist.send(own.rows, dst=0)
            dist.send(own.is_embedded.to(torch.uint8), dst=0)
        return []
    gathered = [own]
    for rank, batch in enumerate(of_round[1:], start=1):
        part = own.rows.new_empty(int(rows.counts[batch].sum()), own.rows.shape[1])
        is_embedded = torch.empty(len(batch), dtype=torch.uint8)
        dist.recv(part, src=rank)
        dist.recv(is_embedded, src=rank)
        gathered.append(_Part(batch, part, is_embedded.bool()))
    return gathered


def _describe(rows: EmbeddingRows, identities: Sequence[str]) -> dict[str, Any]:
    """Make the content of meta.json, with the content key of the job."""
    description = {
        **rows.embedder.description,
        **rows.count(),
        "byola_rq": version("byola_rq"),
        **rows.describe(),
    }
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for identity in identities:
        digest.update(f"{identity}\n".encode())
    release = {"release": rows.embedder.release} if rows.embedder.release else {}
    return {**description, **release, "content_key": digest.hexdigest()}
