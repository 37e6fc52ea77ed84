"""The profile of a run: right times, a trace that can be read, and no bit changed."""

import json
import time
from pathlib import Path

import pytest
import torch

from byola_rq.runtime.stages import recorded_by, stage
from byola_rq.train.profiling import (
    TRACE_FILE,
    WARM_UP_STEPS,
    StageClock,
    StepProfiler,
)
from byola_rq.train.step import train_step
from tests.train.test_step import batch, changed_names, copy_of, small_training

CPU = torch.device("cpu")


def test_times_are_those_of_the_stages_alone() -> None:
    clock = StageClock(CPU)
    with recorded_by(clock.record):
        clock.mark()
        for _ in range(2):
            with stage("online forward"):
                time.sleep(0.01)
                with stage("target"):
                    time.sleep(0.03)
            time.sleep(0.02)
    times = {each.name: each for each in clock.read(2)}
    assert list(times) == ["online forward", "target", "the rest", "a step"]
    # A sleep is never shorter than asked for; the longer one, nested, is not counted twice.
    assert times["online forward"].milliseconds >= 10
    assert times["target"].milliseconds >= 30
    assert times["the rest"].milliseconds >= 20
    parts = [each for name, each in times.items() if name != "a step"]
    assert times["a step"].milliseconds == pytest.approx(sum(each.milliseconds for each in parts))
    assert sum(each.share for each in parts) == pytest.approx(1)


def test_a_stage_that_fails_is_closed() -> None:
    clock = StageClock(CPU)
    with recorded_by(clock.record):
        clock.mark()
        with pytest.raises(ZeroDivisionError), stage("views"):
            _ = 1 / 0
        with stage("EMA"):
            pass
    assert [each.name for each in clock.read(1)] == ["views", "EMA", "the rest", "a step"]


def test_without_a_recorder_stages_record_nothing() -> None:
    clock = StageClock(CPU)
    with recorded_by(clock.record):
        clock.mark()
    with stage("input"):
        pass
    assert [each.name for each in clock.read(1)] == ["the rest", "a step"]


def test_compiled_code_has_no_stages() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        with stage("target"):
            return x * 2

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    clock = StageClock(CPU)
    with recorded_by(clock.record):
        clock.mark()
        assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert [each.name for each in clock.read(1)] == ["the rest", "a step"]


def run_steps(num_steps: int, profiler: StepProfiler | None) -> dict[str, torch.Tensor]:
    training = small_training()
    for number in range(num_steps):
        with stage("input"):
            each = batch(number)
        train_step(training, each)
        if profiler is not None:
            profiler.end_step()
    return copy_of(training)


def test_a_profiled_run_has_the_same_bits_and_leaves_a_trace(tmp_path: Path) -> None:
    num_steps = WARM_UP_STEPS + 2 + 1 + 2 + 1
    lines: list[str] = []
    with StepProfiler(2, CPU, tmp_path, lines.append) as profiler:
        profiled = run_steps(num_steps, profiler)
    assert changed_names(run_steps(num_steps, None), profiled) == set()
    assert lines[0] == "2 steps, each on average:"
    assert lines[1].split() == ["stage", "ms", "share"]
    assert lines[2].startswith("input")
    assert lines[-2].startswith("a step")
    assert lines[-2].endswith("100.0%")
    assert lines[-1].startswith(f"{tmp_path / TRACE_FILE}: 2 steps")
    events = json.loads((tmp_path / TRACE_FILE).read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("views") == 2  # one of each traced step
    assert "aten::convolution" in names


def test_a_run_that_ends_early_says_what_it_has(tmp_path: Path) -> None:
    lines: list[str] = []
    with StepProfiler(20, CPU, tmp_path, lines.append) as profiler:
        run_steps(WARM_UP_STEPS + 1, profiler)
    assert lines[0] == "1 steps, each on average:"
    assert not (tmp_path / TRACE_FILE).exists()
    for num_steps in (1, WARM_UP_STEPS):
        lines.clear()
        with StepProfiler(20, CPU, tmp_path, lines.append) as profiler:
            run_steps(num_steps, profiler)
        assert lines == [
            f"warning: nothing was profiled: the run has only {num_steps} steps left, of which "
            f"the first {WARM_UP_STEPS} warm up"
        ]
    with stage("input"):  # and nobody records any longer
        pass


def test_a_trace_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    with StepProfiler(1, CPU, tmp_path / "nowhere", lines.append) as profiler:
        run_steps(WARM_UP_STEPS + 4, profiler)
    assert lines[-1].startswith(f"WARNING: {tmp_path / 'nowhere' / TRACE_FILE}: cannot be written")


@pytest.mark.gpu
def test_a_gpu_s_time_is_its_own() -> None:
    device = torch.device("cuda")
    clock = StageClock(device)
    x = torch.randn(4096, 4096, device=device)
    with recorded_by(clock.record):
        clock.mark()
        with stage("backward"):
            for _ in range(50):
                x = (x @ x).clamp(-1, 1)
    backward = clock.read(1)[0]
    assert backward.name == "backward"
    # The host only asks for the products.
    assert backward.milliseconds > backward.host_milliseconds
