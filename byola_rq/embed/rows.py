"""The rows that clips become: one for each clip, or one for each of its frame embeddings."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.audio.io import audio_error, stream_audio
from byola_rq.corpus.decoded_clips import DecodedClips
from byola_rq.corpus.order import IntArray
from byola_rq.embed.embedder import Embedder
from byola_rq.embed.folder import EMBEDDINGS, FRAMES
from byola_rq.sources.encoded import read_encoded

BATCH_SECONDS = 240.0  # of sound embedded together, in clips of one length


class EmbeddingRows:
    """Where the rows of each clip are, and how they are made.

    Args:
        embedder: On the device to use.
        clips: With the lengths that their headers promise.
        frames: A row for each frame embedding, not for each clip.
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
        """Of all clips."""
        return int(self.counts.sum())

    def batches(self) -> list[IntArray]:
        """Clips to embed together: of one length, by their headers."""
        clips = np.argsort(self.clips.num_samples, kind="stable")
        lengths = self.clips.num_samples[clips]
        batches: list[IntArray] = []
        for same in np.split(clips, np.flatnonzero(np.diff(lengths)) + 1):
            length = int(self.clips.num_samples[same[0]])
            size = max(int(BATCH_SECONDS * self.clips.sample_rate) // length, 1)
            batches.extend(same[first : first + size] for first in range(0, len(same), size))
        return batches

    def numbers(self, batch: IntArray) -> IntArray:
        """The rows of a batch's clips, one clip after the other."""
        counts, firsts = self.counts[batch], self.first_rows[batch]
        places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(np.repeat(firsts, counts) + places, np.int64)

    def is_long(self, clip: int) -> bool:
        """Whether a clip is decoded block by block, as it is embedded: there is no room for it."""
        return bool(self.clips.num_samples[clip] > self.embedder.clips.max_samples)

    @torch.inference_mode()
    def compute(self, batch: IntArray, decoded: Iterator[Tensor]) -> Tensor:
        """The rows of a batch, on the CPU; frames that a clip's header promises in vain are NaN.

        Args:
            batch: One of `batches()`.
            decoded: The waveforms of the clips that are not long, of this batch the next.
        """
        rows = torch.full((int(self.counts[batch].sum()), self.embedder.embedding_dim), torch.nan)
        first_rows = np.cumsum(self.counts[batch]) - self.counts[batch]
        if self.is_long(int(batch[0])):
            self._compute_long(int(batch[0]), rows)
            return rows
        waveforms = [next(decoded) for _ in batch]
        places: dict[int, list[int]] = {}
        for place, waveform in enumerate(waveforms):
            # Again, and by length: a header may promise more than there is to decode.
            self.embedder.clips.refuse_short(len(waveform), self.clips.sources[batch[place]])
            places.setdefault(len(waveform), []).append(place)
        for same in places.values():
            waveform = torch.stack([waveforms[place] for place in same])
            if self.are_frames:
                frames, _ = self.embedder.frames(waveform, self.clips.sample_rate)
                for place, frame_embeddings in zip(same, frames.cpu(), strict=True):
                    first = first_rows[place]
                    rows[first : first + len(frame_embeddings)] = frame_embeddings
            else:
                rows[same] = self.embedder(waveform, self.clips.sample_rate).cpu()
        return rows

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
            rule = f"cannot be read ({error.strerror or error})"
            raise audio_error(source, "unreadable", rule) from error

    def describe(self) -> dict[str, Any]:
        """What meta.json says of frames: times are `first_seconds + i * seconds_apart`."""
        if not self.are_frames:
            return {}
        first, second = self.embedder.frame_seconds(2).double().tolist()
        times = {"first_seconds": round(first, 9), "seconds_apart": round(second - first, 9)}
        return {"frames": times, "rows": self.num_rows}

    def index(self, rows: npt.NDArray[np.float32]) -> str:
        """The text of index.csv.

        Args:
            rows: All that were computed, `(rows, D)`; only a few are looked at.
        """
        text = io.StringIO()
        writer = csv.writer(text)
        names = ("first_frame", "num_frames") if self.are_frames else ()
        writer.writerow(("row", "path", "seconds", *names))
        lengths = self.clips.num_samples
        for row, (clip, length) in enumerate(zip(self.clips.sources, lengths, strict=True)):
            where = (self.first_rows[row], self._count(row, rows)) if self.are_frames else ()
            writer.writerow((row, clip, f"{length / self.clips.sample_rate:.4f}", *where))
        return text.getvalue()

    def _count(self, clip: int, rows: npt.NDArray[np.float32]) -> int:
        """Frame embeddings that a clip has in truth."""
        first, count = int(self.first_rows[clip]), int(self.counts[clip])
        if not np.isnan(rows[first + count - 1, 0]):
            return count
        return count - int(np.isnan(rows[first : first + count, 0]).sum())
