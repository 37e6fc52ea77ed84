"""Timing of training steps: a table of their stages, and a trace of a few steps."""

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch

from byola_rq.runtime.files import whole_file
from byola_rq.runtime.stages import STAGES, Stage, recorded_by

WARM_UP_STEPS = 3  # allocate, choose algorithms, compile
TRACED_STEPS = 5  # at most; some megabytes each
TRACE_FILE = "trace.json"


class StageTime(NamedTuple):
    """Time of one stage, per step."""

    name: str
    milliseconds: float  # on the device
    share: float  # of the step, 0 to 1
    host_milliseconds: float  # of the training process


class StageClock:
    """Sums the time of stages on the host's clock and, for a GPU, on the device's.

    GPU times come from events in its stream, without waiting for it: the time of `input` is the
    device's own wait. torch.profiler does not report that wait, slows down every operation, and
    misses the kernels of `backward`, which another thread launches
    (https://github.com/pytorch/pytorch/issues/144778).

    Args:
        device: Training device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str | None, int, torch.cuda.Event | None]] = []
        self._open: list[str | None] = [None]  # open stages; None is outside of all

    @contextlib.contextmanager
    def record(self, name: Stage) -> Iterator[None]:
        """Measure a stage; its time is subtracted from the enclosing stage."""
        self._open.append(name)
        self.mark()
        try:
            yield
        finally:
            self._open.pop()
            self.mark()

    def mark(self) -> None:
        """Assign the time from here on to the innermost open stage."""
        event = None
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
        self._marks.append((self._open[-1], time.perf_counter_ns(), event))

    def read(self, num_steps: int) -> list[StageTime]:
        """Return the time per step of each stage since the first mark, the rest and the whole.

        Waits for the device.
        """
        self.mark()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        device_ms: dict[str | None, float] = dict.fromkeys([*STAGES, None], 0.0)
        host_ms = device_ms.copy()
        for (name, began, event), (_, ended, next_event) in pairwise(self._marks):
            elapsed = (ended - began) / 1e6
            host_ms[name] += elapsed
            if event is not None and next_event is not None:
                elapsed = event.elapsed_time(next_event)
            device_ms[name] += elapsed
        whole = sum(device_ms.values())
        rows = [
            StageTime(name or "the rest", ms / num_steps, ms / whole, host_ms[name] / num_steps)
            for name, ms in device_ms.items()
            if ms or name is None
        ]
        total = StageTime("a step", whole / num_steps, 1.0, sum(host_ms.values()) / num_steps)
        return [*rows, total]


class StepProfiler:
    """Measures the stages of `num_steps` steps, then traces a few more during the run.

    Timing and tracing use different steps, since tracing slows down every operation. Use as a
    context manager around the loop, and call `end_step` after every step. Results do not depend on
    it.

    Args:
        num_steps: Number of steps to measure, after `WARM_UP_STEPS`.
        device: Training device.
        folder: Folder for `trace.json`, which chrome://tracing and ui.perfetto.dev open.
        log: Prints a line.
    """

    def __init__(
        self, num_steps: int, device: torch.device, folder: Path, log: Callable[[str], None]
    ) -> None:
        self._device, self._path, self._log = device, folder / TRACE_FILE, log
        self._step = 0
        self._last_measured = WARM_UP_STEPS + num_steps
        self._last_traced = self._last_measured + 1 + min(num_steps, TRACED_STEPS)
        self._clock = StageClock(device)
        self._recording = contextlib.ExitStack()
        self._tracer = torch.profiler.profile(
            schedule=torch.profiler.schedule(
                wait=self._last_measured,
                warmup=1,  # a step that is neither measured nor traced
                active=self._last_traced - self._last_measured - 1,
                repeat=1,
            ),
            on_trace_ready=self._write_trace,
        )

    def __enter__(self) -> Self:
        self._tracer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._step <= WARM_UP_STEPS and error is None:
            self._log(
                f"warning: nothing was profiled: the run has only {self._step} steps left, of "
                f"which the first {WARM_UP_STEPS} warm up"
            )
        elif WARM_UP_STEPS < self._step < self._last_measured:
            self._log_times()
        self._recording.close()
        self._tracer.stop()

    def end_step(self) -> None:
        """Count a finished step, and start or end measuring and tracing."""
        self._step += 1
        if self._step == WARM_UP_STEPS:
            self._recording.enter_context(recorded_by(self._clock.record))
            self._clock.mark()
        elif self._step == self._last_measured:
            self._log_times()
            self._recording.close()
            self._recording.enter_context(recorded_by(torch.profiler.record_function))
        self._tracer.step()

    def _log_times(self) -> None:
        num_steps = self._step - WARM_UP_STEPS
        for line in describe_times(self._clock.read(num_steps), num_steps, self._device):
            self._log(line)

    def _write_trace(self, tracer: torch.profiler.profile) -> None:
        self._recording.close()
        try:
            with whole_file(self._path) as temporary:
                tracer.export_chrome_trace(str(temporary))
                num_megabytes = temporary.stat().st_size / 1e6
                if not num_megabytes:  # the exporter reports failures only in its log
                    raise OSError("nothing was written")
        except (OSError, RuntimeError) as error:
            self._log(f"WARNING: {self._path}: cannot be written ({error})")
            return
        num_steps = min(self._step, self._last_traced) - self._last_measured - 1
        self._log(
            f"{self._path}: {num_steps} steps, {num_megabytes:.0f} MB; open it in ui.perfetto.dev"
        )


def describe_times(times: list[StageTime], num_steps: int, device: torch.device) -> list[str]:
    """Format the times as a table, line by line."""
    is_cuda = device.type == "cuda"
    lines = [f"{num_steps} steps, each on average:", f"{'stage':16}{'ms':>10}{'share':>8}"]
    if is_cuda:
        lines[-1] += f"{'ms on the host':>18}"
    for each in times:
        line = f"{each.name:16}{each.milliseconds:10.2f}{each.share:8.1%}"
        lines.append(line + (f"{each.host_milliseconds:18.2f}" if is_cuda else ""))
    return lines
