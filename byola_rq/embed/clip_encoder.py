"""Embedding of waveforms of any number and length in bounded memory."""

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

# Sound that goes through the encoder at once, in one clip or many: about 1 GB of memory. A longer
# clip is embedded in windows of this length.
MAX_SECONDS = 240.0
_MAX_LOG_MEL = 24_001 * 64  # values: the log-mel of that time with the paper's frontend
MIN_SECONDS = 0.1  # shortest clip; no encoder can embed less

# Log-mel frames per batch of clips of one length. The encoders' first convolution takes 16 KiB per
# frame: 128 MiB, and 512 MiB on a GPU; on a CPU larger batches are no faster.
FRAMES_AT_ONCE = {"cpu": 8192, "mps": 8192, "cuda": 32768}
_CPU_SECONDS = 40.0  # of sound per batch on a CPU; more is allocated anew each time
_BLOCK_SAMPLES = 1 << 18  # length of the blocks of a long waveform


class Window(NamedTuple):
    """Window of a clip with a margin on both sides for the receptive field of its frames."""

    waveform: Tensor  # (S,)
    is_first: bool
    is_last: bool


@dataclass(frozen=True)
class ClipEncoder:
    """Encoder for waveforms at the frontend's rate; batching and windows do not change results.

    Args:
        encoder: Encoder in eval mode, of any floating-point type.
        frontend: Frontend in float32.
        statistics: Statistics of the model.
    """

    encoder: Encoder
    frontend: LogMelSpectrogram
    statistics: Statistics

    @property
    def max_samples(self) -> int:
        """Maximum number of samples that go through the encoder at once."""
        max_frames = _MAX_LOG_MEL // self.frontend.n_mels
        max_samples = int(MAX_SECONDS * self.frontend.sample_rate)
        return min(max_samples, max_frames * self.frontend.hop_length)

    @property
    def min_samples(self) -> int:
        """Length of the shortest clip in samples: 0.1 s, or more if the frontend needs it."""
        frontend = self.frontend
        of_one_embedding = (self.encoder.frames_per_embedding - 1) * frontend.hop_length
        least = round(MIN_SECONDS * frontend.sample_rate)
        return max(least, frontend.min_samples, of_one_embedding)

    def check_length(self, num_samples: int, name: object) -> None:
        """Raise AudioError if a clip is shorter than `min_samples`.

        Args:
            num_samples: Length of the clip in samples at the frontend's rate.
            name: Path, clip, or name of a waveform, with which the message begins.
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
        """Count the frame embeddings of a clip."""
        return (1 + num_samples // self.frontend.hop_length) // self.encoder.frames_per_embedding

    def prepare(
        self,
        waveform: Waveforms,
        sample_rate: SampleRate,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Check (see `as_rows`), resample to the frontend's rate and move to the device."""
        leave_forked_threads()
        rows, rate = as_rows(waveform, lengths), as_sample_rate(sample_rate)

        def prepare(samples: Tensor, name: str) -> Tensor:
            samples = resample(samples, rate, self.frontend.sample_rate)
            self.check_length(samples.shape[-1], name)
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
        """Embed frame by frame: float32 `(B, T', D)`, NaN after the end of shorter clips."""
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
        """Iterate over frame embeddings `(T', D)` of consecutive windows of one clip.

        A window has a margin of the log-mel frames in the encoder's receptive field (fewer than
        the frames of one embedding) and the samples those depend on; the margin's embeddings are
        dropped. So the result equals that of the whole clip.

        Args:
            blocks: Consecutive samples of the clip, float32 `(S,)` each, on any device.
            name: Name of the clip, for messages.

        Raises:
            AudioError: If the clip is too short.
        """
        hop_length, step = self.frontend.hop_length, self.encoder.frames_per_embedding
        # Log-mel frames at a window's edge that extend over it.
        edge = -(-(self.frontend.n_fft // 2) // hop_length)
        margin = (step + edge) * hop_length
        size = -(-max(self.max_samples, margin) // (step * hop_length)) * step * hop_length
        for window in cut_windows(blocks, size, margin):
            self.check_length(len(window.waveform), name)
            log_mel = self._log_mel(window.waveform[None].to(self.device))
            end = log_mel.shape[-1] if window.is_last else log_mel.shape[-1] - 1 - edge
            frames = self._frames_of(log_mel[..., 0 if window.is_first else edge : end])[0]
            yield frames[0 if window.is_first else 1 : len(frames) if window.is_last else -1]

    def embed_stream(self, blocks: Iterable[Tensor], name: object = "waveform") -> Tensor:
        """Embed one clip given in blocks (see `stream_frames`): float32 `(D,)`."""
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
        """Split into batches: indices, and `(b, S)` or waveforms of unequal length."""
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
        """Compute frame embeddings in float32 for any encoder type: pooling then does not round."""
        with self._own_precision():
            return self.encoder.frames(log_mel.to(self._dtype)).float()

    @contextlib.contextmanager
    def _own_precision(self) -> Iterator[None]:
        """Compute in the encoder's type, independent of the caller's autocast and TF32 settings."""
        leave_forked_threads()
        with float32_products(), torch.autocast(self.device.type, enabled=False):
            yield

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """Compute the standardized log-mel spectrogram, `(B, 1, F, T)`."""
        with self._own_precision():
            return self.statistics.standardize(self.frontend(waveform))[:, None]

    @property
    def _batch_samples(self) -> int:
        """Maximum number of samples of clips in one batch; a longer clip is a batch by itself."""
        if self.device.type != "cpu":
            return self.max_samples
        return min(self.max_samples, int(_CPU_SECONDS * self.frontend.sample_rate))

    @property
    def device(self) -> torch.device:
        """Device of the encoder."""
        return next(self.encoder.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.encoder.parameters()).dtype


def _blocks_of(waveform: Tensor) -> tuple[Tensor, ...]:
    return torch.split(waveform, _BLOCK_SAMPLES)


def cut_windows(blocks: Iterable[Tensor], size: int, margin: int) -> Iterator[Window]:
    """Cut a clip given in blocks into windows of `size` samples plus `margin` on both sides.

    There is no margin at the clip's ends, and the last window ends with the clip. At most two
    windows and one block are in memory. `size` must be at least `margin`.
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
        # The next window begins one margin before the end of this one without its margin.
        held = [waveform[wanted - 2 * margin :]]
        num_held = len(held[0])
        wanted, is_first = size + 2 * margin, False
