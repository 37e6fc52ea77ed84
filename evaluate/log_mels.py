"""A task's clips as log-mel spectrograms, decoded once where they fit in memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from byola_rq.audio import fit_length, read_audio
from byola_rq.errors import ByolaRQError
from byola_rq.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.prefetch import map_ahead
from evaluate.tasks import Task, TaskError

# Below this all log-mels of a task are kept and every model and fold reads them from there; above
# it every pass decodes anew. 4 GiB are 4.2 million frames: 10,000 clips of 4 s, or 40,000 of 1 s.
MAX_BYTES_KEPT = 4 * 2**30


class LogMels:
    """The log-mel spectrograms of a task, each clip cropped or padded to the task's unit.

    Args:
        task: The clips and their unit.
        frontend: Computes them.
        device: Where the frontend is, and where the log-mels are wanted.
        num_workers: Threads that decode; libsndfile works outside Python's lock.
        on_progress: Called with the number of clips just decoded.
        max_bytes_kept: Above this nothing is kept.
    """

    def __init__(
        self,
        task: Task,
        frontend: LogMelSpectrogram,
        *,
        device: str,
        num_workers: int,
        on_progress: Callable[[int], None] = lambda _count: None,
        max_bytes_kept: int = MAX_BYTES_KEPT,
    ) -> None:
        self.task = task
        self.frontend = frontend
        self._device = device
        self._num_workers = num_workers
        self._num_samples = round(task.unit_seconds * frontend.sample_rate)
        self.num_frames = 1 + self._num_samples // frontend.hop_length
        num_bytes = 4 * len(task.clips) * frontend.n_mels * self.num_frames
        self._kept: Tensor | None = None
        if num_bytes <= max_bytes_kept:
            self._kept = self._decode_all(on_progress)

    @property
    def is_kept(self) -> bool:
        """Whether the log-mels are in memory; if not, every pass over them decodes."""
        return self._kept is not None

    def batches(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        """The clips at `positions`, in this order, as `(B, 1, F, T)` on the frontend's device.

        Raises:
            AudioError: If a clip cannot be decoded.
        """
        if self._kept is None:
            yield from self._decode(positions, batch_size)
            return
        for start in range(0, len(positions), batch_size):
            index = torch.as_tensor(positions[start : start + batch_size])
            yield self._kept[index].to(self._device)

    def measure_statistics(self, positions: Sequence[int], batch_size: int) -> Statistics:
        """Mean and standard deviation over all elements of the clips at `positions`.

        Raises:
            TaskError: If they are all the same, silence for example.
        """
        try:
            return measure_statistics(self.batches(positions, batch_size))
        except ValueError as error:
            if isinstance(error, ByolaRQError):
                raise
            raise TaskError(f"{self.task.source}: training clips: {error}") from error

    def _decode_all(self, on_progress: Callable[[int], None]) -> Tensor:
        num_clips = len(self.task.clips)
        kept = torch.empty(num_clips, 1, self.frontend.n_mels, self.num_frames)
        done = 0
        for log_mel in self._decode(range(num_clips), batch_size=32):
            kept[done : done + len(log_mel)] = log_mel.cpu()
            done += len(log_mel)
            on_progress(len(log_mel))
        return kept

    @torch.no_grad()
    def _decode(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        batch: list[Tensor] = []
        for waveform in map_ahead(self._read_waveform, positions, self._num_workers):
            batch.append(waveform)
            if len(batch) == batch_size:
                yield self._to_log_mel(batch)
                batch = []
        if batch:
            yield self._to_log_mel(batch)

    def _to_log_mel(self, waveforms: list[Tensor]) -> Tensor:
        log_mel: Tensor = self.frontend(torch.stack(waveforms).to(self._device))  # (B, F, T)
        return log_mel.unsqueeze(1)

    def _read_waveform(self, position: int) -> Tensor:
        waveform = read_audio(
            self.task.clips[position].path,
            self.frontend.sample_rate,
            num_samples=self._num_samples,
        )
        return fit_length(waveform, self._num_samples)
