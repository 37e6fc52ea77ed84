"""A task's clips as log-mel spectrograms, decoded once where they fit in memory."""

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

# Below this all log-mels of a task are kept and every model and fold reads them from there; above
# it every pass decodes anew. 4 GiB are 16.8 million frames: 41,000 clips of 4 s, 166,000 of 1 s.
MAX_BYTES_KEPT = 4 * 2**30


class LogMels:
    """The log-mel spectrograms of a task, each clip cropped or padded to the task's unit.

    Args:
        task: The clips and their unit.
        frontend: Computes them.
        device: Where the frontend is, and where the log-mels are wanted.
        num_workers: Threads that decode; libsndfile works outside Python's lock.
        max_bytes_kept: Above this nothing is kept.

    Attributes:
        unreadable: The rule that the clip at a position breaks, of those decoded so far. In a task
            that must be whole (`max_skipped` 0) such a clip raises instead.
        decode_seconds: Spent waiting for waveforms so far.
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
        """Whether the log-mels stay in memory; if not, every pass over them decodes."""
        return self._kept is not None

    @torch.no_grad()
    def batches(
        self, positions: Sequence[int], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Log-mels `(B, 1, F, T)` on the frontend's device, with the positions of their clips.

        Args:
            positions: Which clips, each once; those that cannot be read are left out.
            batch_size: Clips at a time, at most.

        Raises:
            AudioError: If a clip cannot be read and the task must be whole.
            TaskError: If more clips cannot be read than the task may lack.
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
        """Mean and standard deviation over all elements of the clips at `positions`.

        Args:
            positions: As for `batches`.
            batch_size: As for `batches`.
            on_progress: Called with the number of clips just measured.

        Raises:
            AudioError: As `batches`.
            TaskError: As `batches`, and if the clips are all the same, silence for example.
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
        """The next of the decoded waveforms, as many as positions, those that could be read."""
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
    """A clip's waveform `(S,)`: from its start, `num_samples` long, zeros where it ends before.

    Raises:
        AudioError: If it cannot be decoded or its file was cut short.
    """
    source = read_member(clip.path, clip.member) if clip.member else clip.path
    start = round(clip.start_seconds * sample_rate)
    return fit_length(read_audio(source, sample_rate, start, num_samples), num_samples)
