"""Time and peak memory of the probes on synthetic features of a large task's size."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from evaluate.probes.prepared import FittedProbe, Part

ROOT = Path(__file__).resolve().parent.parent

# Clips to train, validate and test on; classes; True if a clip may have several.
TASKS = {
    "vc1": ((138_361, 6_904, 8_251), 1_251, False),
    "fsd50k": ((36_796, 4_170, 10_231), 200, True),
}
RANK = 256  # directions in which the synthetic features vary, the i-th with variance 1 / i
SEPARATION = 0.5  # distance of class centers, in units of the spread within a class
CHUNK_CLIPS = 4096
# Fractions that take under a minute each on 2 cores; knn is fast but grows with their square.
SCALES = {"logistic": [0.01, 0.03], "adam": [0.01, 0.02], "knn": [0.1, 0.2]}

HELP = """\
Time and peak memory of the probes on synthetic features of a large task's size.

Each probe is fitted on a few small fractions of the task's clips, with all classes and dimensions,
each in a separate process, so that the peak is that of the fit. A straight line through the
smallest and the largest fraction extrapolates to the whole task (knn: through their squares);
--scale 1 measures it instead. The features are clusters, one per class, in 256 directions of
falling variance, so that accuracy is neither chance nor 100 %.
"""
EXAMPLES = """\
examples:
  python -m benchmarks.probe_size                              # VoxCeleb1's size, all probes
  python -m benchmarks.probe_size --probe adam --scale 0.02 0.05
  python -m benchmarks.probe_size --task fsd50k --probe logistic --scale 0.05 0.1
  python -m benchmarks.probe_size --device cuda --scale 1      # the whole size, on a GPU

columns:
  steps     lbfgs iterations over all C; epochs over all seeds; none for knn
  fit       wall seconds of the fit, validation included; CPU: processor seconds, threads summed
  test      wall seconds to score the test clips
  peak      largest resident memory of the process, features and libraries included
  score     accuracy, or mAP if clips have several classes
"""


def main() -> None:
    """Measure, print a table, extrapolate."""
    options = parse_options()
    if options.measure_one:
        print(json.dumps(measure(options)))
        return
    print(describe_machine(options.device), flush=True)
    for name in options.probe:
        print(f"\n{name} on {options.task}: {options.dim} dimensions, {options.classes} classes")
        print("  clips    scale  steps    fit s    CPU s   test s  peak GiB  score", flush=True)
        rows = []
        for scale in sorted(options.scale or SCALES[name]):
            rows.append(measure_apart(name, scale, options))
            print(format_row(rows[-1]), flush=True)
        for line in extrapolate(name, rows, options):
            print(line, flush=True)


def parse_options() -> argparse.Namespace:
    """Parse the command line, and check sizes before anything is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probe_size",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--task", choices=TASKS, default="vc1", help="task of this size (default: vc1)"
    )
    parser.add_argument(
        "--probe",
        nargs="+",
        choices=("logistic", "adam", "knn"),
        default=["logistic", "adam", "knn"],
        help="probes to fit (default: all)",
    )
    parser.add_argument(
        "--scale",
        nargs="+",
        type=float,
        metavar="FRACTION",
        help="fractions of the task's clips, each measured (default: 2 of under a minute)",
    )
    parser.add_argument("--dim", type=int, default=2048, help="embedding size (default: 2048)")
    parser.add_argument("--classes", type=int, help="number of classes (default: the task's)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of features and probes (default: 0)"
    )
    parser.add_argument(
        "--adam-seeds", type=int, default=1, help="seeds of adam, 3 in the protocol (default: 1)"
    )
    parser.add_argument("--measure-one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.classes = options.classes or TASKS[options.task][1]
    num_clips = TASKS[options.task][0][0]
    smallest = options.classes / num_clips
    for scale in options.scale or ():
        if not smallest <= scale <= 1:
            parser.error(
                f"--scale must be {smallest:.4f} (a training clip for each of {options.classes} "
                f"classes) to 1; got {scale:g}"
            )
    return options


def measure_apart(name: str, scale: float, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.probe_size", "--measure-one"]
    command += ["--probe", name, "--scale", str(scale), "--task", options.task]
    for option in ("dim", "classes", "device", "seed", "adam-seeds"):
        command += [f"--{option}", str(getattr(options, option.replace("-", "_")))]
    # scikit-learn computes on a GPU only if scipy was imported with this.
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    output = subprocess.run(  # noqa: S603  # our own command
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    row: dict[str, Any] = json.loads(output)
    return row


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Fit one probe at one scale; return its measurements."""
    from evaluate.probes import fit as probe
    from evaluate.probes.metrics import METRICS, metric_for

    (name,), (scale,) = options.probe, options.scale
    probe.ADAM_NUM_SEEDS = options.adam_seeds
    train, valid, test = draw_parts(scale, options)
    start, cpu_start = time.perf_counter(), time.process_time()
    probes = probe.PROBES[name](train, valid, seed=options.seed, device=options.device)
    fit_seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    start = time.perf_counter()
    scores = probes[0].scores(test.features)
    test_seconds = time.perf_counter() - start
    return {
        "clips": len(train.labels),
        "scale": scale,
        "steps": count_steps(probes),
        "fit_seconds": fit_seconds,
        "cpu_seconds": cpu_seconds,
        "test_seconds": test_seconds,
        "peak_gib": peak_gib(),
        "score": METRICS[metric_for(test.labels)](test.labels, scores),
        "params": [fitted.params for fitted in probes],
        "warnings": sorted({warning for fitted in probes for warning in fitted.warnings}),
        "gpu_gib": gpu_gib(options.device),
    }


def draw_parts(scale: float, options: argparse.Namespace) -> "list[Part]":
    """Draw clusters of equal size; centers add up for clips of several classes."""
    from evaluate.probes.prepared import Part

    sizes, _, is_multilabel = TASKS[options.task]
    generator = np.random.default_rng(options.seed)
    spread = np.arange(1, RANK + 1) ** -0.5
    directions = (spread[:, None] * generator.normal(size=(RANK, options.dim))).astype(np.float32)
    centers = SEPARATION * generator.normal(size=(options.classes, RANK)).astype(np.float32)
    parts = []
    for size in (round(scale * size) for size in sizes):
        labels = generator.permutation(np.arange(size) % options.classes)
        targets = np.zeros((size, options.classes), dtype=bool)
        targets[np.arange(size), labels] = True
        if is_multilabel:
            targets[np.arange(size), generator.integers(options.classes, size=size)] = True
        features = np.empty((size, options.dim), dtype=np.float32)
        for start in range(0, size, CHUNK_CLIPS):
            rows = slice(start, start + CHUNK_CLIPS)
            latent = targets[rows].astype(np.float32) @ centers
            latent += generator.standard_normal(latent.shape, dtype=np.float32)
            features[rows] = latent @ directions
            features[rows] += 0.1 * generator.standard_normal(
                features[rows].shape, dtype=np.float32
            )
        parts.append(Part(features, targets if is_multilabel else labels))
    return parts


def count_steps(probes: "tuple[FittedProbe, ...]") -> int:
    """Number of steps: iterations of lbfgs, epochs of adam, 0 for knn."""
    return sum(
        getattr(probe.classifier, "num_iterations_", getattr(probe.classifier, "num_epochs_", 0))
        for probe in probes
    )


def peak_gib() -> float:
    """Peak resident memory of this process in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**30 if sys.platform == "darwin" else 2**20)  # bytes or KiB


def gpu_gib(device: str) -> float:
    """Peak memory of torch on the GPU in GiB."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else 0.0


def format_row(row: dict[str, Any]) -> str:
    """Format one measurement as a line of the table."""
    line = (
        f"{row['clips']:>7} {row['scale']:>8g} {row['steps'] or '':>6} {row['fit_seconds']:>8.1f} "
        f"{row['cpu_seconds']:>8.1f} {row['test_seconds']:>8.1f} {row['peak_gib']:>9.2f}  "
        f"{row['score']:.3f}  {json.dumps(row['params'])}"
    )
    if row["gpu_gib"]:
        line += f"  GPU {row['gpu_gib']:.2f} GiB"
    return "\n".join([line, *(f"        warning: {text}" for text in row["warnings"])])


def extrapolate(name: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Estimate the cost of the whole task, if it grows as the arithmetic does."""
    last, num_clips = rows[-1], TASKS[options.task][0][0]
    if last["scale"] == 1:
        return []

    def at_full(values: list[float], power: int = 1) -> float:
        """Extrapolate along the first and last value; through zero if they do not rise."""
        sizes: list[float] = [row["scale"] ** power for row in rows]
        if values[-1] <= values[0]:
            sizes, values = [0.0, *sizes], [0.0, *values]
        slope = (values[-1] - values[0]) / (sizes[-1] - sizes[0])
        return values[-1] + slope * (1 - sizes[-1])

    # A search compares all training clips with all others, so both factors grow.
    power = 2 if name == "knn" else 1
    steps = [row["steps"] or 1 for row in rows]
    wall, processor = (
        at_full([row[key] / n for row, n in zip(rows, steps, strict=True)], power)
        for key in ("fit_seconds", "cpu_seconds")
    )
    line = (
        f"  extrapolated to {num_clips} clips, not measured: fit "
        f"{format_seconds(wall * steps[-1])}, CPU {format_seconds(processor * steps[-1])}"
    )
    if last["steps"]:
        line += f" ({steps[-1]} steps as at scale {last['scale']:g}, {wall:.1f} s each)"
    if len(rows) > 1:
        line += f", peak {at_full([row['peak_gib'] for row in rows]):.1f} GiB"
    return [line]


def format_seconds(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_machine(device: str) -> str:
    """Describe the machine and versions that the figures hold for."""
    processor = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [line for line in cpu_info.read_text().splitlines() if "model name" in line]
        processor = names[0].split(":")[1].strip() if names else processor
    parts = [f"{len(os.sched_getaffinity(0))} cores of {processor}"]
    parts.append(f"load average {os.getloadavg()[0]:.1f} before the start")
    parts.append(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}")
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {version(name)}" for name in ("torch", "scikit-learn", "numpy", "scipy")]
    if device.startswith("cuda"):
        import torch

        parts.append(torch.cuda.get_device_name(device))
    return "machine: " + ", ".join(parts)


if __name__ == "__main__":
    main()
