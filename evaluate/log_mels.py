"""Log-mel spectrograms of a task, decoded once if they fit in memory."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.audio.io import fit_length, read_audio
from byola_rq.errors import AudioError, ByolaRQError, Code
from byola_rq.runtime.prefetch import map_ahead
from evaluate.tasks.archives import read_member
from evaluate.tasks.task import Clip, Task, TaskError

# Up to this size all log-mels of a task stay in memory for every model and fold; above it every
# pass decodes again. 4 GiB are 16.8 million frames: 41,000 clips of 4 s, 166,000 of 1 s.
MAX_BYTES_KEPT = 4 * 2**30


class LogMels:
    """Log-mel spectrograms of a task, each clip cropped or padded to the task's unit.

    Args:
        task: Clips and their unit.
        frontend: Waveform to log-mel.
        device: Device of the frontend and of the returned log-mels.
        num_workers: Number of decoding threads; libsndfile releases Python's lock.
        max_bytes_kept: Largest size in bytes that stays in memory; above it nothing does.

    Attributes:
        unreadable: Error code by clip position, of unreadable clips found so far. In a task
            without missing clips (`max_skipped` 0) such a clip raises instead.
        decode_seconds: Seconds spent waiting for waveforms so far.
    """

    def __init__(
        self,
        task: Task,
        frontend: LogMelSpectrogram,
        *,
        device: str,
        num_workers: int,
        max_bytes_kept: int = MAX_BYTES_KEPT,
    ) -> None:
        self.task = task
        self.frontend = frontend
        self.unreadable: dict[int, Code | None] = {}
        self.decode_seconds = 0.0
        self._device = device
        self._num_workers = num_workers
        self._num_samples = round(task.unit_seconds * frontend.sample_rate)
        self.num_frames = 1 + self._num_samples // frontend.hop_length
        shape = (len(task.clips), 1, frontend.n_mels, self.num_frames)
        self._kept: Tensor | None = None
        self._is_kept = np.zeros(len(task.clips), dtype=np.bool_)
        if 4 * np.prod(shape) <= max_bytes_kept:
            self._kept = torch.empty(shape)  # memory is taken as clips arrive

    @property
    def is_kept(self) -> bool:
        """True if the log-mels stay in memory; if not, every pass decodes again."""
        return self._kept is not None

    @torch.no_grad()
    def batches(
        self, positions: Sequence[int], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield positions of clips and their log-mels `(B, 1, F, T)` on the frontend's device.

        Args:
            positions: Positions of clips in the task, each once; unreadable clips are skipped.
            batch_size: Maximum number of clips per batch.

        Raises:
            AudioError: If a clip is unreadable and the task allows none to be skipped.
            TaskError: If more clips are unreadable than the task allows to be skipped.
        """
        wanted = [position for position in positions if position not in self.unreadable]
        to_decode = [position for position in wanted if not self._is_kept[position]]
        with closing(map_ahead(self._try_reading, to_decode, self._num_workers)) as decoded:
            for start in range(0, len(wanted), batch_size):
                batch = wanted[start : start + batch_size]
                fresh, log_mel = self._decode([p for p in batch if not self._is_kept[p]], decoded)
                if self._kept is not None:
                    self._kept[fresh] = log_mel.cpu()
                    self._is_kept[fresh] = True
                    fresh = [position for position in batch if self._is_kept[position]]
                    log_mel = self._kept[fresh].to(self._device)
                if fresh:
                    yield fresh, log_mel

    def measure_statistics(
        self,
        positions: Sequence[int],
        batch_size: int,
        on_progress: Callable[[int], None] = lambda _count: None,
    ) -> Statistics:
        """Measure mean and standard deviation over all log-mel elements of clips.

        Args:
            positions: Positions of the clips, each once.
            batch_size: Maximum number of clips per batch.
            on_progress: Called with the number of clips just measured.

        Raises:
            AudioError: As for `batches`.
            TaskError: As for `batches`, and if all elements are equal, as in silence.
        """

        def log_mels() -> Iterator[Tensor]:
            for readable, log_mel in self.batches(positions, batch_size):
                yield log_mel
                on_progress(len(readable))

        try:
            return measure_statistics(log_mels())
        except ValueError as error:
            if isinstance(error, ByolaRQError):
                raise
            raise TaskError(
                f"{self.task.source}: training clips: {error}", code="value", path=self.task.source
            ) from error

    def _decode(
        self, positions: Sequence[int], decoded: Iterator[Tensor | AudioError]
    ) -> tuple[list[int], Tensor]:
        """Return readable ones of `positions`, and log-mels of the next waveforms of `decoded`."""
        start = time.perf_counter()
        readable, waveforms = [], []
        for position in positions:
            waveform = next(decoded)
            if isinstance(waveform, AudioError):
                self._leave_out(position, waveform)
            else:
                readable.append(position)
                waveforms.append(waveform)
        self.decode_seconds += time.perf_counter() - start
        if not readable:
            return [], torch.empty(0, 1, self.frontend.n_mels, self.num_frames)
        log_mel: Tensor = self.frontend(torch.stack(waveforms).to(self._device))  # (B, F, T)
        return readable, log_mel.unsqueeze(1)

    def _leave_out(self, position: int, error: AudioError) -> None:
        self.unreadable[position] = error.code
        num_skipped = self.task.num_missing + len(self.unreadable)
        num_listed = self.task.num_missing + len(self.task.clips)
        if self.task.max_skipped == 0:
            raise error
        if num_skipped > self.task.max_skipped * num_listed:
            raise TaskError(
                f"{self.task.source}: missing and unreadable clips must be at most "
                f"{self.task.max_skipped:.0%} of {num_listed}; got {num_skipped}, the last: "
                f"{error}",
                code="too-many",
                path=self.task.source,
                value=num_skipped,
            )

    def _try_reading(self, position: int) -> Tensor | AudioError:
        try:
            return read_clip(
                self.task.clips[position], self.frontend.sample_rate, self._num_samples
            )
        except AudioError as error:
            return error


def read_clip(clip: Clip, sample_rate: int, num_samples: int) -> Tensor:
    """Read a clip's waveform `(S,)` from its start, cropped or zero-padded to `num_samples`.

    Raises:
        AudioError: If it cannot be decoded or its file is truncated.
    """
    source = read_member(clip.path, clip.member) if clip.member else clip.path
    start = round(clip.start_seconds * sample_rate)
    return fit_length(read_audio(source, sample_rate, start, num_samples), num_samples)
