"""Many clips -> one array of embeddings on disk, continued where an earlier run stopped."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.clip_source import ClipSource
from byola_rq.corpus import find_clips
from byola_rq.decoded_clips import DecodedClips, measure_clips
from byola_rq.embedder import MIN_SECONDS, Embedder
from byola_rq.errors import AudioError, CorpusError
from byola_rq.files import replace_file
from byola_rq.prefetch import map_ahead
from byola_rq.progress import ProgressBar

BATCH_SECONDS = 240.0  # of sound embedded together, in clips of one length


def embed_clips(
    embedder: Embedder,
    sources: Sequence[Path],
    out: Path,
    *,
    num_workers: int,
    overwrite: bool = False,
) -> Path:
    """Embed every clip of folders, manifests or files into `out`.

    Writes `embeddings.npy` (float32 `(clips, D)`), `index.csv` (row, path, seconds) and
    `meta.json`. What is there already is recognized by its content key (weights, frontend,
    statistics, and each clip's path, size and time of change): the same job goes on or is done;
    another one is refused.

    Args:
        embedder: On the device to use.
        sources: As for pretraining.
        out: Folder to write to; made where missing.
        num_workers: Decoding threads.
        overwrite: Replace the embeddings of another job.

    Returns:
        Path of `embeddings.npy`.

    Raises:
        AudioError, CorpusError: If a source or clip cannot be used, or `out` holds another job or
            cannot be written.
    """
    found, _ = find_clips(sources)
    with ProgressBar("reading headers", len(found)) as bar:
        clips = measure_clips(found, embedder.sample_rate, bar.advance)
    for source, length in zip(clips.sources, clips.num_samples, strict=True):
        _refuse_short_clip(source, length, clips.sample_rate)
    final = out / "embeddings.npy"
    meta = _describe(embedder, clips)
    earlier = _read_key(out / "meta.json")
    if earlier == meta["content_key"] and final.exists():
        return final
    if final.exists() and not overwrite:
        raise CorpusError(
            f"{final}: holds the embeddings of another model or other clips; "
            "choose another folder, or --overwrite"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        rows, is_done = _open_partial(out, meta["content_key"], len(clips), embedder.embedding_dim)
        _fill(embedder, clips, rows, is_done, num_workers)
        replace_file(out / "index.csv", _index(clips))
        os.replace(out / ".partial.npy", final)
        replace_file(out / "meta.json", json.dumps(meta, indent=1))
        for name in (".partial.done.npy", ".partial.key"):
            (out / name).unlink()
    except OSError as error:
        raise CorpusError(f"{out}: cannot be written ({error})") from error
    return final


def _fill(
    embedder: Embedder,
    clips: DecodedClips,
    rows: npt.NDArray[np.float32],
    is_done: npt.NDArray[np.bool_],
    num_workers: int,
) -> None:
    """Embed the rows that are not done yet, in batches of clips of one length."""
    missing = [row for row in range(len(clips)) if not is_done[row]]
    with ProgressBar("embedding", len(clips), done=len(clips) - len(missing)) as bar:
        for batch in _decoded_batches(clips, missing, num_workers):
            numbers = [row for row, _ in batch]
            waveform = torch.stack([each for _, each in batch])
            rows[numbers] = embedder(waveform, clips.sample_rate).cpu().numpy()
            # In this order: a row marked done has been written.
            rows.flush()  # type: ignore[attr-defined]
            is_done[numbers] = True
            is_done.flush()  # type: ignore[attr-defined]
            bar.advance(len(numbers))


def _decoded_batches(
    clips: DecodedClips, numbers: Sequence[int], num_workers: int
) -> Iterator[list[tuple[int, Tensor]]]:
    """Decoded clips with their row numbers, those of one length together."""
    by_length = sorted(numbers, key=lambda row: (clips.num_samples[row], row))

    def decode(row: int) -> Tensor:
        return clips.read(row)

    batch: list[tuple[int, Tensor]] = []
    for row, waveform in zip(by_length, map_ahead(decode, by_length, num_workers), strict=True):
        # Again: a header may promise more than there is to decode.
        _refuse_short_clip(clips.sources[row], len(waveform), clips.sample_rate)
        seconds = (len(batch) + 1) * len(waveform) / clips.sample_rate
        if batch and (len(waveform) != len(batch[0][1]) or seconds > BATCH_SECONDS):
            yield batch
            batch = []
        batch.append((row, waveform))
    if batch:
        yield batch


def _describe(embedder: Embedder, clips: DecodedClips) -> dict[str, Any]:
    """What meta.json says, with the content key of the job."""
    description = {
        **embedder.description,
        "clips": len(clips),
        "byola_rq": version("byola_rq"),
    }
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for source in clips.sources:
        status = source.path.stat()
        digest.update(f"{source}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return {**description, "content_key": digest.hexdigest()}


def _open_partial(
    out: Path, key: str, num_rows: int, dim: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Rows and their done marks, as files that a killed run leaves usable."""
    rows_path, done_path, key_path = (
        out / name for name in (".partial.npy", ".partial.done.npy", ".partial.key")
    )
    is_same_job = key_path.exists() and key_path.read_text() == key
    if not (is_same_job and rows_path.exists() and done_path.exists()):
        key_path.unlink(missing_ok=True)
        rows = np.lib.format.open_memmap(rows_path, "w+", np.float32, (num_rows, dim))
        is_done = np.lib.format.open_memmap(done_path, "w+", np.bool_, (num_rows,))
        # Last: the key vouches for both arrays.
        replace_file(key_path, key)
        return rows, is_done
    return (
        np.lib.format.open_memmap(rows_path, "r+"),
        np.lib.format.open_memmap(done_path, "r+"),
    )


def _index(clips: DecodedClips) -> str:
    """The text of index.csv."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("row", "path", "seconds"))
    for row, (clip, length) in enumerate(zip(clips.sources, clips.num_samples, strict=True)):
        writer.writerow((row, clip, f"{length / clips.sample_rate:.4f}"))
    return text.getvalue()


def _read_key(path: Path) -> str | None:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))["content_key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(key)


def _refuse_short_clip(source: ClipSource, length: int, sample_rate: int) -> None:
    if length < MIN_SECONDS * sample_rate:
        raise AudioError(
            f"{source}: length must be at least {MIN_SECONDS} s; got {length / sample_rate:.4f} s"
        )
