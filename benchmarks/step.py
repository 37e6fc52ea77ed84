"""Speed of a whole training step, from waveforms to updated weights.

Run from the checkout: python -m benchmarks.step --help
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from benchmarks.harness import (
    Device,
    Full,
    Out,
    PrecisionOption,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
    open_device,
    timed,
    usual_precision,
)
from benchmarks.plain_step import PlainStep
from benchmarks.step_counts import (
    CARDS,
    bytes_of_step,
    count_bytes,
    count_operations,
    expect,
    operations_of_step,
)
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import default_config_path, load_config
from byola_rq.corpus.segments import SegmentBatch
from byola_rq.model.linear import linear
from byola_rq.runtime.device import Precision
from byola_rq.runtime.rng import sample_keys
from byola_rq.synthesis.generate import KINDS, make_clip
from byola_rq.train.state import TrainState, build_state
from byola_rq.train.step import train_step

app = new_app()


@app.command()
def main(
    *,
    batch: Annotated[int, typer.Option(min=2, help="Segments per step.")] = 32,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size D.")] = 2048,
    rounds: Rounds = 5,
    device: Device = "auto",
    precision: PrecisionOption = None,
    full: Full = False,
    scaling: Annotated[
        bool, typer.Option(help="Also batch 64-1024 and D 512-3072 (minutes on a CPU).")
    ] = False,
    out: Out = None,
) -> None:
    """Measure steps of the paper's recipe at a reduced batch, and the gain of each part.

    \b
    1  segments per second: the step written from the equations (`plain`), the same with the options
       that torch offers, ours, and ours with one part replaced by torch's. All share frontend and
       views, and freed memory is kept as in pretraining, which helps the plain step most (peak:
       memory of a step beyond weights and optimizer; on a GPU of its tensors)
    2  with --scaling, ours by batch and D
    3  the machine's limits in a large matrix product and a copy, and the share that ours uses, by
       the operations and bytes counted in 4
    4  operations and bytes of a segment, counted
    5  limits of GPUs if only arithmetic or memory took time: expected, not measured

    \b
    Examples:
      python -m benchmarks.step
      python -m benchmarks.step --full --out step.json
      python -m benchmarks.step --full --device cuda --scaling
    """
    place = open_device(device)
    precision = precision or usual_precision(place)
    batch, dim = (256, 2048) if full else (batch, dim)
    report = Report(batch=batch, D=dim)
    contenders = {
        name: timed(_runner(step, write_batch(batch)), place)
        for name, step in make_steps(dim, batch, place, precision).items()
    }
    rows = compare(contenders, unit="segments", rounds=rounds, peaks_on=place)
    report.add(f"1 steps of {batch} segments, D = {dim}, {precision} on {place.type}", rows)
    if scaling:
        report.add("2 scaling", measure_scaling(place, precision))
    rate = next(row["segments/s"] for row in rows if row["name"] == "ours")
    report.add("3 of the machine's limits", compare_limits(rate, dim, place, precision))
    report.add("4 a segment of a step, counted", [*count_operations(dim), *count_bytes(dim)])
    report.add("5 expected from the counts, not measured", [expect(dim, card) for card in CARDS])
    report.save(out)


def write_batch(size: int) -> SegmentBatch:
    """Synthesize sounds of every kind, 0.95 s each."""
    count = min(size, 64)
    clips = [
        make_clip(KINDS[n % len(KINDS)], seed=n, seconds=0.95).astype(np.float32)
        for n in range(count)
    ]
    waveform = torch.from_numpy(np.stack([np.resize(clip, 15_200) for clip in clips]))
    repeated = waveform.repeat(-(-size // count), 1)[:size]
    return SegmentBatch(repeated.contiguous(), sample_keys(0, 0, torch.arange(size)))


def make_training(dim: int, batch: int, device: torch.device, precision: Precision) -> TrainState:
    """Build our training state."""
    config = load_config(
        default_config_path(),
        [f"encoder.dim={dim}", f"train.batch_size={batch}", "run.dir=unused", "data.source=unused"],
    )
    frontend = LogMelSpectrogram().to(device)
    return build_state(
        config, Statistics(-6.0, 4.0), frontend, device=device, precision=precision, num_steps=10**6
    )


def make_steps(
    dim: int, batch: int, device: torch.device, precision: Precision
) -> dict[str, Callable[[SegmentBatch], object]]:
    """Return the contenders by name, all from the same weights."""

    def ours(set_back: Callable[[nn.Module], None] | None = None) -> TrainState:
        training = make_training(dim, batch, device, precision)
        if set_back:
            set_back(training.byol)
        return training

    contenders: dict[str, Callable[[SegmentBatch], object]] = {
        "plain": PlainStep(ours()),
        "plain, torch's options": PlainStep(ours(), is_tuned=True),
        "ours": partial(train_step, ours()),
        "ours, first block unfused": partial(train_step, ours(unfuse_first)),
        "ours, torch's linear layers": partial(train_step, ours(use_torch_linear)),
    }
    if device.type == "cpu" and precision == "float32":
        contenders["ours, bfloat16"] = partial(
            train_step, make_training(dim, batch, device, "bfloat16")
        )
    return contenders


class _ModuleNorm(nn.BatchNorm2d):
    """Batch norm of another class, which keeps it from being fused."""


def unfuse(network: nn.Module) -> None:
    """Make the convolution blocks run module by module."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _ModuleNorm


def unfuse_first(network: nn.Module) -> None:
    """Make the first convolution block of each encoder run module by module."""
    for name, module in network.named_modules():
        if f".{name}".endswith(".features.1"):
            unfuse(module)


def use_torch_linear(network: nn.Module) -> None:
    """Use torch's own linear layers."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = nn.Linear


def measure_scaling(device: torch.device, precision: Precision) -> list[Row]:
    """Measure ours at other batch and embedding sizes; skip those that do not fit in memory."""
    rows: list[Row] = []
    sizes = [(batch, 2048) for batch in (64, 128, 256, 512, 1024)]
    for batch, dim in [*sizes, *((256, dim) for dim in (512, 1024, 3072))]:
        try:
            step = partial(train_step, make_training(dim, batch, device, precision))
            contender = timed(_runner(step, write_batch(batch)), device)
            (row,) = compare({"ours": contender}, unit="segments", rounds=2, peaks_on=device)
        except torch.OutOfMemoryError:
            continue
        kept = {key: value for key, value in row.items() if key not in ("name", "ratio")}
        rows.append({"batch": batch, "D": dim, **kept})
    return rows


def compare_limits(rate: float, dim: int, device: torch.device, precision: Precision) -> list[Row]:
    """Compare a step with the best of ten large products and copies."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    size = 4096 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(2**26, device=device)
    target = torch.empty_like(source)
    works = {"matrix product": lambda: linear(a, b), "copy": lambda: target.copy_(source)}
    seconds = {
        name: min(timed(lambda work=work: float(len(work())), device)()[1] for _ in range(10))  # type: ignore[misc]
        for name, work in works.items()
    }
    # Bytes are counted for bfloat16.
    moved = bytes_of_step(dim, "first block fused") * (1 if dtype is torch.bfloat16 else 2)
    limits = {
        "GFLOP/s": (2 * size**3 / seconds["matrix product"], operations_of_step(dim)),
        "GB/s": (2 * source.numel() * 4 / seconds["copy"], moved),
    }
    return [
        {
            "what": f"{name}, {unit}",
            "limit": limit / 1e9,
            "of a step": rate * amount / 1e9,
            "share": rate * amount / limit,
        }
        for name, (unit, (limit, amount)) in zip(works, limits.items(), strict=True)
    ]


def _runner(step: Callable[[SegmentBatch], object], segments: SegmentBatch) -> Callable[[], float]:
    def work() -> float:
        result = step(segments)
        loss: Tensor = result if isinstance(result, Tensor) else result[0]  # type: ignore[index]
        assert loss.isfinite()
        return len(segments.key)

    return work


if __name__ == "__main__":
    app()
