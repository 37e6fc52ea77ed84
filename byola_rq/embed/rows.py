"""Rows of the output array: one per clip, or one per frame embedding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.audio.encoded import unreadable
from byola_rq.audio.io import stream_audio
from byola_rq.corpus.decoded_clips import DecodedClips
from byola_rq.corpus.order import IntArray
from byola_rq.embed.embedder import Embedder
from byola_rq.embed.folder import EMBEDDINGS, FRAMES
from byola_rq.errors import AudioError
from byola_rq.sources.encoded import read_encoded
from byola_rq.text.cells import csv_text

BATCH_SECONDS = 240.0  # of sound per batch, in clips of one length


class EmbeddingRows:
    """Positions and computation of the rows of each clip.

    Args:
        embedder: Embedder on the device to use.
        clips: Clips with the lengths that their headers state.
        frames: One row per frame embedding instead of one per clip.
    """

    def __init__(self, embedder: Embedder, clips: DecodedClips, *, frames: bool) -> None:
        self.embedder = embedder
        self.clips = clips
        self.are_frames = frames
        self.file_name = FRAMES if frames else EMBEDDINGS
        counts = [
            embedder.clips.count_frames(int(each)) if frames else 1 for each in clips.num_samples
        ]
        self.counts = np.array(counts, np.int64)
        self.first_rows = np.cumsum(self.counts) - self.counts

    @property
    def num_rows(self) -> int:
        """Number of rows of all clips."""
        return int(self.counts.sum())

    def batches(self) -> list[IntArray]:
        """Group the clips into batches of one length, according to their headers."""
        clips = np.argsort(self.clips.num_samples, kind="stable")
        lengths = self.clips.num_samples[clips]
        batches: list[IntArray] = []
        for same in np.split(clips, np.flatnonzero(np.diff(lengths)) + 1):
            length = int(self.clips.num_samples[same[0]])
            size = max(int(BATCH_SECONDS * self.clips.sample_rate) // length, 1)
            batches.extend(same[first : first + size] for first in range(0, len(same), size))
        return batches

    def numbers(self, batch: IntArray) -> IntArray:
        """Return the row numbers of a batch's clips, clip by clip."""
        counts, firsts = self.counts[batch], self.first_rows[batch]
        places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(np.repeat(firsts, counts) + places, np.int64)

    def is_long(self, clip: int) -> bool:
        """Return whether a clip is too long for memory and decoded block by block."""
        return bool(self.clips.num_samples[clip] > self.embedder.clips.max_samples)

    def read(self, clip: int) -> Tensor | AudioError:
        """Decode a clip that is not long; return the error if it cannot be embedded."""
        try:
            waveform = self.clips.read(clip)
            # Again: a header may state more than decodes.
            self.embedder.clips.check_length(len(waveform), self.clips.sources[clip])
            return waveform
        except AudioError as error:
            return error

    @torch.inference_mode()
    def compute(
        self, batch: IntArray, decoded: Iterator[Tensor | AudioError]
    ) -> tuple[Tensor, dict[int, AudioError]]:
        """Compute the rows of a batch, on the CPU; NaN for frames that are stated but missing.

        Args:
            batch: One of `batches()`.
            decoded: Results of `read` for the clips that are not long, beginning with this batch.

        Returns:
            Rows, and the errors of clips that cannot be decoded by their index in the batch; their
            rows are NaN.
        """
        rows = torch.full((int(self.counts[batch].sum()), self.embedder.embedding_dim), torch.nan)
        first_rows = np.cumsum(self.counts[batch]) - self.counts[batch]
        if self.is_long(int(batch[0])):
            try:
                self._compute_long(int(batch[0]), rows)
            except AudioError as error:
                return rows, {0: error}
            return rows, {}
        waveforms = [next(decoded) for _ in batch]
        errors = {
            place: each for place, each in enumerate(waveforms) if isinstance(each, AudioError)
        }
        for same in _places_by_length(waveforms):
            waveform = torch.stack([waveforms[place] for place in same])  # type: ignore[misc]
            if self.are_frames:
                frames, _ = self.embedder.frames(waveform, self.clips.sample_rate)
                for place, frame_embeddings in zip(same, frames.cpu(), strict=True):
                    first = first_rows[place]
                    rows[first : first + len(frame_embeddings)] = frame_embeddings
            else:
                rows[same] = self.embedder(waveform, self.clips.sample_rate).cpu()
        return rows, errors

    def _compute_long(self, clip: int, rows: Tensor) -> None:
        blocks, name = self._decode_blocks(clip), self.clips.sources[clip]
        if not self.are_frames:
            rows[0] = self.embedder.clips.embed_stream(blocks, name).cpu()
            return
        first = 0
        for frames in self.embedder.clips.stream_frames(blocks, name):
            rows[first : first + len(frames)] = frames.cpu()
            first += len(frames)

    def _decode_blocks(self, clip: int) -> Iterator[Tensor]:
        source = self.clips.sources[clip]
        first, length = int(self.clips.first_samples[clip]), int(self.clips.num_samples[clip])
        try:
            audio = read_encoded(source)
            for block in stream_audio(audio, self.clips.sample_rate, first, length):
                yield torch.from_numpy(block)
        except OSError as error:
            raise unreadable(source, error) from error

    def count(self, is_embedded: npt.NDArray[np.bool_] | None = None) -> dict[str, int]:
        """Count clips, and rows if they are frames, for meta.json."""
        counts = self.counts if is_embedded is None else self.counts[is_embedded]
        return {"clips": len(counts)} | ({"rows": int(counts.sum())} if self.are_frames else {})

    def describe(self) -> dict[str, Any]:
        """Describe the times of frames, `first_seconds + i * seconds_apart`, for meta.json."""
        if not self.are_frames:
            return {}
        first, second = self.embedder.frame_seconds(2).double().tolist()
        times = {"first_seconds": round(first, 9), "seconds_apart": round(second - first, 9)}
        return {"frames": times}

    def index(self, rows: npt.NDArray[np.float32], is_embedded: npt.NDArray[np.bool_]) -> str:
        """Format index.csv.

        Args:
            rows: Computed rows, `(rows, D)`; only a few are read.
            is_embedded: Clips that keep their rows, bool `(clips,)`.
        """
        names = ("first_frame", "num_frames") if self.are_frames else ()
        table: list[tuple[object, ...]] = [("row", "path", "seconds", *names)]
        first_row = 0
        for row, clip in enumerate(np.flatnonzero(is_embedded).tolist()):
            where = (first_row, self._count(clip, rows)) if self.are_frames else ()
            first_row += int(self.counts[clip])
            seconds = self.clips.num_samples[clip] / self.clips.sample_rate
            table.append((row, self.clips.sources[clip], f"{seconds:.4f}", *where))
        return csv_text(table, "\r\n")

    def _count(self, clip: int, rows: npt.NDArray[np.float32]) -> int:
        """Count the frame embeddings that a clip really has."""
        first, count = int(self.first_rows[clip]), int(self.counts[clip])
        if not np.isnan(rows[first + count - 1, 0]):
            return count
        return count - int(np.isnan(rows[first : first + count, 0]).sum())


def _places_by_length(waveforms: Sequence[Tensor | AudioError]) -> Iterable[list[int]]:
    """Group the indices of waveforms by length, leaving out errors."""
    places: dict[int, list[int]] = {}
    for place, waveform in enumerate(waveforms):
        if isinstance(waveform, Tensor):
            places.setdefault(len(waveform), []).append(place)
    return places.values()
