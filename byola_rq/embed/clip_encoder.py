"""Waveforms of any number and length -> embeddings, a bounded part of them at a time."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.audio.io import resample
from byola_rq.audio.waveforms import SampleRate, Waveforms, as_rows, as_sample_rate
from byola_rq.embed.padding import group_by_length, padded_frames, padded_log_mel, pool_padded
from byola_rq.errors import AudioError
from byola_rq.model.encoder import Encoder, pool_over_time
from byola_rq.runtime.device import float32_products
from byola_rq.runtime.threads import leave_forked_threads

# Of sound that go through the encoder at once, in one clip or many: about 1 GB of memory. A longer
# clip is embedded in windows of this length.
MAX_SECONDS = 240.0
_MAX_LOG_MEL = 24_001 * 64  # values: what the paper's frontend makes of that time, others of less
MIN_SECONDS = 0.1  # of a clip; no encoder can embed less

# Log-mel frames of clips of one length that are embedded together. The first convolution of the
# encoders holds 16 KiB of each: 128 MiB, and on a GPU 512 MiB; on a CPU more are no faster.
FRAMES_AT_ONCE = {"cpu": 8192, "mps": 8192, "cuda": 32768}
_CPU_SECONDS = 40.0  # of clips together on a CPU; with more, their memory is made anew each time
_BLOCK_SAMPLES = 1 << 18  # in which a long waveform at hand is passed on


class Window(NamedTuple):
    """A stretch of a clip with what its frames see to both sides."""

    waveform: Tensor  # (S,)
    is_first: bool
    is_last: bool


@dataclass(frozen=True)
class ClipEncoder:
    """Embeds waveforms at the frontend's rate; every clip as if it were alone and whole.

    Args:
        encoder: In eval mode, of any floating-point type.
        frontend: Of float32.
        statistics: Of the model.
    """

    encoder: Encoder
    frontend: LogMelSpectrogram
    statistics: Statistics

    @property
    def max_samples(self) -> int:
        """Samples that go through the encoder at once."""
        max_frames = _MAX_LOG_MEL // self.frontend.n_mels
        max_samples = int(MAX_SECONDS * self.frontend.sample_rate)
        return min(max_samples, max_frames * self.frontend.hop_length)

    @property
    def min_samples(self) -> int:
        """Of the shortest clip: 0.1 s, or more where a frontend of other options needs it."""
        frontend = self.frontend
        of_one_embedding = (self.encoder.frames_per_embedding - 1) * frontend.hop_length
        least = round(MIN_SECONDS * frontend.sample_rate)
        return max(least, frontend.min_samples, of_one_embedding)

    def refuse_short(self, num_samples: int, name: object) -> None:
        """Raise AudioError, which begins with `name`, for a clip of so many samples.

        Args:
            num_samples: At the frontend's rate.
            name: A path, a clip, or the text that stands for a waveform.
        """
        if num_samples < self.min_samples:
            rate = self.frontend.sample_rate
            path: Any = getattr(name, "path", name)
            key = "length"
            if isinstance(name, str):
                path, key = None, name
            raise AudioError(
                f"{name}: length must be at least {self.min_samples / rate:g} s; "
                f"got {num_samples / rate:.4f} s",
                code="too-short",
                path=path,
                key=key,
                value=num_samples / rate,
            )

    def count_frames(self, num_samples: int) -> int:
        """Frame embeddings of a clip."""
        return (1 + num_samples // self.frontend.hop_length) // self.encoder.frames_per_embedding

    def prepare(
        self,
        waveform: Waveforms,
        sample_rate: SampleRate,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Checked (see `as_rows`), at the frontend's rate, on the encoder's device."""
        leave_forked_threads()
        rows, rate = as_rows(waveform, lengths), as_sample_rate(sample_rate)

        def prepare(samples: Tensor, name: str) -> Tensor:
            samples = resample(samples, rate, self.frontend.sample_rate)
            self.refuse_short(samples.shape[-1], name)
            return samples.to(self.device)

        if isinstance(rows, Tensor):
            return prepare(rows, "waveform")
        return [prepare(row, f"waveform {place}") for place, row in enumerate(rows)]

    def embed(self, waveforms: Tensor | Sequence[Tensor]) -> Tensor:
        """Embed `(B, S)`, or B waveforms `(S,)` of any length: float32 `(B, D)`."""
        embedded = [(places, self._embed_part(part)) for places, part in self._parts(waveforms)]
        if len(embedded) == 1 and isinstance(waveforms, Tensor):
            return embedded[0][1]
        embeddings = embedded[0][1].new_empty(len(waveforms), self.encoder.embedding_dim)
        for places, rows in embedded:
            embeddings[places] = rows
        return embeddings

    def frames(self, waveforms: Tensor | Sequence[Tensor]) -> Tensor:
        """The same, frame by frame: float32 `(B, T', D)`, NaN behind the end of shorter clips."""
        embedded = [(places, self._part_frames(part)) for places, part in self._parts(waveforms)]
        if len(embedded) == 1 and isinstance(waveforms, Tensor):
            return embedded[0][1]
        longest = max(rows.shape[1] for _, rows in embedded)
        shape = (len(waveforms), longest, self.encoder.embedding_dim)
        frames = embedded[0][1].new_full(shape, torch.nan)
        for places, rows in embedded:
            for place, row in zip(places, rows, strict=True):
                count = self.count_frames(len(waveforms[place]))
                frames[place, :count] = row[:count]
        return frames

    def stream_frames(
        self, blocks: Iterable[Tensor], name: object = "waveform"
    ) -> Iterator[Tensor]:
        """Frame embeddings `(T', D)` of consecutive stretches of one clip.

        A window is cut with the log-mel frames that the encoder sees beside it (less than the
        frames of one embedding) and the samples that those see, and the embeddings of what was
        added are dropped. So the rest are those of the whole clip.

        Args:
            blocks: The clip's samples one after the other, float32 `(S,)` each, on any device.
            name: Of the clip, for messages.

        Raises:
            AudioError: If all together are too short.
        """
        hop_length, step = self.frontend.hop_length, self.encoder.frames_per_embedding
        # Log-mel frames at a cut that reach over it.
        edge = -(-(self.frontend.n_fft // 2) // hop_length)
        margin = (step + edge) * hop_length
        size = -(-max(self.max_samples, margin) // (step * hop_length)) * step * hop_length
        for window in cut_windows(blocks, size, margin):
            self.refuse_short(len(window.waveform), name)
            log_mel = self._log_mel(window.waveform[None].to(self.device))
            end = log_mel.shape[-1] if window.is_last else log_mel.shape[-1] - 1 - edge
            frames = self._frames_of(log_mel[..., 0 if window.is_first else edge : end])[0]
            yield frames[0 if window.is_first else 1 : len(frames) if window.is_last else -1]

    def embed_stream(self, blocks: Iterable[Tensor], name: object = "waveform") -> Tensor:
        """Embed one clip that comes in blocks (see `stream_frames`): float32 `(D,)`."""
        parts = [
            (frames.amax(dim=0), frames.sum(dim=0), len(frames))
            for frames in self.stream_frames(blocks, name)
        ]
        highest, sums, counts = zip(*parts, strict=True)
        mean: Tensor = torch.stack(sums).sum(dim=0) / sum(counts)
        return torch.stack(highest).amax(dim=0) + mean

    def _parts(
        self, waveforms: Tensor | Sequence[Tensor]
    ) -> Iterator[tuple[list[int], Tensor | list[Tensor]]]:
        """What is embedded together: places, and `(b, S)` or waveforms of unequal length."""
        if isinstance(waveforms, Tensor):
            size = max(self._batch_samples // waveforms.shape[1], 1)
            for first in range(0, len(waveforms), size):
                part = waveforms[first : first + size]
                yield list(range(first, first + len(part))), part
            return
        for places in group_by_length([len(each) for each in waveforms], self._batch_samples):
            rows = [waveforms[place] for place in places]
            if len(rows) == 1:
                yield places, rows[0][None]  # not a copy: it may be long
            else:
                is_even = len({len(row) for row in rows}) == 1
                yield places, torch.stack(rows) if is_even else rows

    def _embed_part(self, part: Tensor | list[Tensor]) -> Tensor:
        if isinstance(part, list):
            counts = [self.count_frames(len(waveform)) for waveform in part]
            frames = self._part_frames(part)
            return pool_padded(frames, torch.tensor(counts, device=frames.device))
        if part.shape[1] > self.max_samples:  # then one clip
            return self.embed_stream(_blocks_of(part[0]))[None]
        log_mel = self._log_mel(part)
        if self._dtype != torch.float32:
            return pool_over_time(self._frames_of(log_mel))
        with self._own_precision():
            embeddings: Tensor = self.encoder(log_mel)
            return embeddings

    def _part_frames(self, part: Tensor | list[Tensor]) -> Tensor:
        if isinstance(part, Tensor):
            if part.shape[1] > self.max_samples:
                return torch.cat(list(self.stream_frames(_blocks_of(part[0]))))[None]
            return self._frames_of(self._log_mel(part))
        with self._own_precision():
            log_mel = self.statistics.standardize(padded_log_mel(self.frontend, part))[:, None]
            hop_length = self.frontend.hop_length
            num_frames = [1 + len(waveform) // hop_length for waveform in part]
            counts = torch.tensor(num_frames, device=log_mel.device)
            return padded_frames(self.encoder, log_mel.to(self._dtype), counts).float()

    def _frames_of(self, log_mel: Tensor) -> Tensor:
        """In float32, also where the encoder is not: the pooling then rounds nothing."""
        with self._own_precision():
            return self.encoder.frames(log_mel.to(self._dtype)).float()

    @contextlib.contextmanager
    def _own_precision(self) -> Iterator[None]:
        """Compute in the encoder's type, whatever the caller's autocast or TF32 say."""
        leave_forked_threads()
        with float32_products(), torch.autocast(self.device.type, enabled=False):
            yield

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """Standardized, `(B, 1, F, T)`."""
        with self._own_precision():
            return self.statistics.standardize(self.frontend(waveform))[:, None]

    @property
    def _batch_samples(self) -> int:
        """Samples of the clips that go through the encoder together, one longer clip excepted."""
        if self.device.type != "cpu":
            return self.max_samples
        return min(self.max_samples, int(_CPU_SECONDS * self.frontend.sample_rate))

    @property
    def device(self) -> torch.device:
        """Of the encoder."""
        return next(self.encoder.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.encoder.parameters()).dtype


def _blocks_of(waveform: Tensor) -> tuple[Tensor, ...]:
    return torch.split(waveform, _BLOCK_SAMPLES)


def cut_windows(blocks: Iterable[Tensor], size: int, margin: int) -> Iterator[Window]:
    """Cut a clip that comes in blocks into stretches of `size` samples with `margin` to both sides.

    There is no margin at the clip's two ends, and the last window ends with the clip. At no time
    is more held than two windows and one block. `size` must be at least `margin`.
    """
    source = iter(blocks)
    held: list[Tensor] = []
    num_held = 0
    wanted = size + margin
    is_first = True
    while True:
        while num_held < wanted and (block := next(source, None)) is not None:
            held.append(block)
            num_held += len(block)
        waveform = torch.cat(held) if held else torch.empty(0)
        is_last = num_held < wanted
        yield Window(waveform[:wanted], is_first, is_last)
        if is_last:
            return
        # The next begins a margin before where this one's own samples end.
        held = [waveform[wanted - 2 * margin :]]
        num_held = len(held[0])
        wanted, is_first = size + 2 * margin, False
