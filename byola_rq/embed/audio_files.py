"""Embedding of audio files: decoded ahead, grouped by length."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import Tensor

from byola_rq.audio.io import inspect_audio, read_audio, stream_audio
from byola_rq.embed.clip_encoder import ClipEncoder
from byola_rq.embed.padding import group_by_length
from byola_rq.errors import AudioError
from byola_rq.runtime.prefetch import map_ahead


def embed_files(
    clips: ClipEncoder, paths: Sequence[Path | str], *, num_workers: int, progress: bool
) -> Tensor:
    """Embed audio files, as `Embedder.embed_files` describes.

    Returns:
        Embeddings, float32 `(files, D)` on the CPU, in the order of `paths`.

    Raises:
        AudioError: If there is no file, or one cannot be read or is too short.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    files = [Path(path).expanduser() for path in paths]
    if not files:
        rule = "paths: must name at least one audio file; got none"
        raise AudioError(rule, code="empty", key="paths")
    lengths = list(map_ahead(lambda path: _measure(clips, path), files, num_workers))
    groups = group_by_length(lengths, clips.max_samples)
    whole = [
        files[place] for group in groups for place in group if not _is_long(clips, lengths[place])
    ]
    embeddings = torch.empty(
        (len(files), clips.encoder.embedding_dim), dtype=torch.float32, device="cpu"
    )
    with ExitStack() as stack:
        waveforms = stack.enter_context(
            closing(map_ahead(lambda path: _read(clips, path), whole, num_workers))
        )
        bar = None
        if progress:
            from byola_rq.runtime.progress import (
                ProgressBar,  # imported when needed: rich takes 0.1 s
            )

            bar = stack.enter_context(ProgressBar("embedding", len(files)))
        for group in groups:
            if _is_long(clips, lengths[group[0]]):
                path = files[group[0]]
                rows = clips.embed_stream(_stream(clips, path), path)
            else:
                rows = clips.embed([next(waveforms).to(clips.device) for _ in group])
            embeddings[group] = rows.cpu()
            if bar:
                bar.advance(len(group))
    return embeddings


def _is_long(clips: ClipEncoder, length: int) -> bool:
    """Return whether a clip is too long for memory and read block by block."""
    return length > clips.max_samples


def _measure(clips: ClipEncoder, path: Path) -> int:
    length = inspect_audio(path).num_samples_at(clips.frontend.sample_rate)
    clips.check_length(length, path)
    return length


def _read(clips: ClipEncoder, path: Path) -> Tensor:
    waveform = read_audio(path, clips.frontend.sample_rate)
    clips.check_length(len(waveform), path)  # again: a header may state too much
    return waveform


def _stream(clips: ClipEncoder, path: Path) -> Iterator[Tensor]:
    return (torch.from_numpy(block) for block in stream_audio(path, clips.frontend.sample_rate))
