"""Many clips -> one array of embeddings on disk, by one process or many, continued when stopped."""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from byola_rq.audio.io import audio_error
from byola_rq.corpus.decoded_clips import DecodedClips, measure_clips
from byola_rq.corpus.order import IntArray
from byola_rq.corpus.segments import find_clips
from byola_rq.embed.embedder import Embedder
from byola_rq.embed.folder import EmbeddingFolder
from byola_rq.embed.rows import EmbeddingRows
from byola_rq.errors import CorpusError
from byola_rq.runtime import distributed as ranks
from byola_rq.runtime.prefetch import map_ahead
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.signals import StoppedError, stop_on_signals
from byola_rq.sources.clip_source import ClipSource


def embed_clips(
    embedder: Embedder,
    sources: Sequence[Path],
    out: Path,
    *,
    num_workers: int,
    overwrite: bool = False,
    frames: bool = False,
) -> Path:
    """Embed every clip of folders, manifests or files into `out`.

    Writes `embeddings.npy` (float32 `(clips, D)`), `index.csv` (row, path, seconds) and
    `meta.json`. With `frames`, `frames.npy` instead (float32 `(frames of all clips, D)`): those of
    a clip begin at `first_frame` of its line in `index.csv`, `num_frames` of them, and `meta.json`
    holds their times. Clips of more than 240 s are decoded and embedded in windows. What is there
    already is recognized by its content key (weights, frontend, statistics, and each clip's path,
    size and time of change): the same job goes on or is done; another one is refused.

    Where `ranks.process_group` has connected several processes, all of them call this, each with
    its own device, and share the work; only rank 0 touches `out`. Which clips are embedded
    together depends on the clips alone. So their number, and where a job was stopped, change no
    bit, on devices of one kind; on the CPU with one number of threads (torchrun sets
    `OMP_NUM_THREADS=1` where it is not set).

    Args:
        embedder: On the device to use.
        sources: As for pretraining.
        out: Folder to write to; made where missing.
        num_workers: Decoding threads, of each process.
        overwrite: Replace the embeddings of another job.
        frames: Keep every frame embedding; those of one clip are held in memory together.

    Returns:
        Path of `embeddings.npy`, or `frames.npy`.

    Raises:
        AudioError, CorpusError: If a source or clip cannot be used, or `out` holds another job or
            cannot be written.
        StoppedError: If Ctrl-C or SIGTERM stopped it.
    """
    try:
        with stop_on_signals():
            clips, times = _list_clips(sources, embedder)
            rows = EmbeddingRows(embedder, clips, frames=frames)
            meta = _describe(rows, times)
            folder = EmbeddingFolder(out, meta["content_key"], rows.file_name)

            def open_folder() -> bytes:
                if folder.is_whole(overwrite=overwrite):
                    return b""
                return folder.open(rows.num_rows, embedder.embedding_dim).tobytes()

            is_done = np.frombuffer(ranks.broadcast_bytes(open_folder), np.bool_)
            if len(is_done):
                _fill(rows, folder, is_done, num_workers)
                with ranks.raise_on_all_ranks():
                    if ranks.is_main():
                        folder.finish(meta, rows.index(folder.rows()))
            return folder.embeddings
    except StoppedError as error:
        stopped = StoppedError(f"{out}: {error}; the same command goes on", error.number, path=out)
        stopped.is_said = not ranks.is_main()  # torchrun stops all ranks
        raise stopped from None


def _list_clips(sources: Sequence[Path], embedder: Embedder) -> tuple[DecodedClips, IntArray]:
    """All clips, and each file's size and time of change `(clips, 2)`.

    Each rank opens its share of the files: of millions on a shared disk, opening is what takes
    long, and every file is opened once whatever the number of ranks.
    """
    with ranks.raise_on_all_ranks():
        found, notes = find_clips(sources)
        for note in notes if ranks.is_main() else ():
            print(note, file=sys.stderr)
    _refuse_other_listing(found)
    own = found[ranks.rank() :: ranks.world_size()]
    facts = np.zeros((-(-len(found) // ranks.world_size()), 4), np.int64)
    with ranks.raise_on_all_ranks():
        with ProgressBar("reading headers", len(own)) as bar:
            clips = measure_clips(own, embedder.sample_rate, bar.advance)
        for source, length in zip(own, clips.num_samples, strict=True):
            embedder.clips.refuse_short(length, source)
        facts[: len(own), :2] = np.stack([clips.first_samples, clips.num_samples], 1)
        facts[: len(own), 2:] = np.array([_size_and_time(each) for each in own]).reshape(-1, 2)
    by_rank = ranks.all_gather_rows(torch.from_numpy(facts)).numpy().reshape(-1, *facts.shape)
    facts = by_rank.swapaxes(0, 1).reshape(-1, 4)[: len(found)]
    return DecodedClips(found, facts[:, 0], facts[:, 1], embedder.sample_rate), facts[:, 2:]


def _refuse_other_listing(found: Sequence[ClipSource]) -> None:
    """Ranks may run on several machines, whose folders need not be the same."""
    if ranks.world_size() == 1:
        return
    digest = hashlib.sha256()
    for source in found:
        digest.update(f"{source}\n".encode())
    listings = ranks.all_gather_json([len(found), digest.hexdigest()])
    with ranks.raise_on_all_ranks():
        if listings[ranks.rank()] != listings[0]:
            raise CorpusError(
                f"all ranks must find the same clips; got {len(found)}, rank 0 {listings[0][0]} "
                "(or others). Let no file come or go, and give every machine the same folders",
                code="different",
                value=len(found),
            )


def _size_and_time(source: ClipSource) -> tuple[int, int]:
    try:
        status = source.path.stat()
    except OSError as error:
        raise audio_error(source, "unreadable", f"cannot be read ({error})") from error
    return status.st_size, status.st_mtime_ns


def _fill(
    rows: EmbeddingRows, folder: EmbeddingFolder, is_done: npt.NDArray[np.bool_], num_workers: int
) -> None:
    """Embed, in rounds of one batch for each rank, the batches that are not wholly done."""
    # Whole, also where some rows are there: a part of a batch may give other bits than the whole.
    batches = [each for each in rows.batches() if not is_done[rows.numbers(each)].all()]
    num_left = sum(map(len, batches))
    own_clips = [
        int(clip) for batch in batches[ranks.rank() :: ranks.world_size()] for clip in batch
    ]
    at_once = [clip for clip in own_clips if not rows.is_long(clip)]
    decoded = map_ahead(rows.clips.read, at_once, num_workers)
    gathered: list[tuple[IntArray, Tensor]] = []
    num_clips = len(rows.clips)
    with closing(decoded), ProgressBar("embedding", num_clips, num_clips - num_left) as bar:
        try:
            for first in range(0, len(batches), ranks.world_size()):
                of_round = batches[first : first + ranks.world_size()]
                with ranks.raise_on_all_ranks():
                    # Those of the round before, here: an error of writing too ends all ranks.
                    _add(folder, gathered)
                    own = torch.empty(0, rows.embedder.embedding_dim)
                    if ranks.rank() < len(of_round):
                        own = rows.compute(of_round[ranks.rank()], decoded)
                gathered = _gather(own, [rows.numbers(batch) for batch in of_round])
                bar.advance(sum(map(len, of_round)))
            with ranks.raise_on_all_ranks():
                _add(folder, gathered)
        except BaseException:
            if ranks.is_main():
                folder.flush()  # a stop costs no more than its round
            raise


def _add(folder: EmbeddingFolder, gathered: Sequence[tuple[IntArray, Tensor]]) -> None:
    for numbers, rows in gathered:
        folder.add(numbers, rows.numpy())


def _gather(own: Tensor, of_round: Sequence[IntArray]) -> list[tuple[IntArray, Tensor]]:
    """In rank 0 the row numbers of the round and their rows, of all ranks; nothing elsewhere."""
    if not ranks.is_main():
        if len(own):
            dist.send(own, dst=0)
        return []
    gathered = [(of_round[0], own)]
    for rank, numbers in enumerate(of_round[1:], start=1):
        rows = own.new_empty(len(numbers), own.shape[1])
        dist.recv(rows, src=rank)
        gathered.append((numbers, rows))
    return gathered


def _describe(rows: EmbeddingRows, times: IntArray) -> dict[str, Any]:
    """What meta.json says, with the content key of the job."""
    description = {
        **rows.embedder.description,
        "clips": len(rows.clips),
        "byola_rq": version("byola_rq"),
        **rows.describe(),
    }
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for source, (size, time) in zip(rows.clips.sources, times.tolist(), strict=True):
        digest.update(f"{source}\t{size}\t{time}\n".encode())
    release = {"release": rows.embedder.release} if rows.embedder.release else {}
    return {**description, **release, "content_key": digest.hexdigest()}
