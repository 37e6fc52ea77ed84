"""Cost of a grid: progress of its runs, and the time that the remaining ones take."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluate.ablation.grid import AblationRun
from evaluate.ablation.runs import find_place, is_trained, read_progress

# Six runs of audio_ntt_2020 with D = 512 side by side on one H100, all together: docs/results.md,
# section 1.
H100_SEGMENTS_PER_SECOND = 26_000


def list_states(out: Path, runs: Sequence[AblationRun]) -> Iterator[str]:
    """Yield a line for each run: length, state and directory."""
    for run in runs:
        place, batch_size = find_place(out, run), run.config.train.batch_size
        length = f"{run.num_segments:,} segments" if run.num_segments else _epochs(run)
        if is_trained(place):
            state = f"trained, {read_progress(place, batch_size).hours:.2f} h"
        elif segments := read_progress(place, batch_size).segments:
            state = f"begun, {segments:,} seen"
        else:
            state = "to do"
        yield f"{run}: {length}: {state}: {place}"


def describe_cost(out: Path, runs: Sequence[AblationRun], jobs: int) -> str:
    """Describe the remaining cost, in segments, and in time at known rates."""
    left = [run for run in runs if not is_trained(find_place(out, run))]
    done = [run for run in runs if run not in left]
    segments = sum(run.num_segments or 0 for run in left)
    unknown = sum(run.num_segments is None for run in left)
    text = f"{len(runs)} runs, {len(left)} of them to be trained: {segments:,} segments"
    text += f" and {unknown} runs whose length depends on the corpus" if unknown else ""
    text += (
        f"; {_clock(segments / H100_SEGMENTS_PER_SECOND)} of an H100 at "
        f"{H100_SEGMENTS_PER_SECOND:,} segments/s, measured with six concurrent runs of D = 512"
    )
    encoders = [run.config.encoder for run in left]
    if any(each.name != "audio_ntt_2020" or each.dim > 512 for each in encoders):
        text += "; larger encoders are slower"
    progress = [read_progress(find_place(out, r), r.config.train.batch_size) for r in done]
    hours = sum(each.hours for each in progress)
    if hours:
        rate = sum(each.segments for each in progress) / hours / 3600
        here = segments / rate / jobs
        text += f"; {_clock(here)} at {jobs} x {rate:.0f} segments/s, the rate of finished runs"
    return text


def _epochs(run: AblationRun) -> str:
    return f"{run.config.train.epochs} epochs"


def _clock(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
