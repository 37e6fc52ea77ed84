"""Common parts of the benchmarks: alternating measurements, medians, tables and JSON."""

import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from byola_rq.runtime.device import Precision, choose_device, choose_precision
from byola_rq.runtime.memory import keep_freed_memory

# Options that most benchmarks have.
Rounds = Annotated[int, typer.Option(min=1, help="Rounds of each comparison.")]
Batches = Annotated[int, typer.Option(min=1, help="Batches of 256 segments a turn.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Precision of all contenders.  [default: float32 on a CPU, else auto]"),
]
Full = Annotated[bool, typer.Option(help="The paper's recipe: batch 256, D = 2048.")]
LogMels = Annotated[int, typer.Option(min=2, help="Number of log-mels of 64 x 96.")]
Out = Annotated[Path | None, typer.Option(help="JSON file to write the tables to.")]

Contender = Callable[[], tuple[float, float]]  # does some work; returns (units, seconds)
Row = dict[str, Any]


def new_app(*, no_args_is_help: bool = False) -> typer.Typer:
    """Create the typer application of a benchmark."""
    return typer.Typer(
        add_completion=False,
        no_args_is_help=no_args_is_help,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def open_device(name: str) -> torch.device:
    """Choose a device; freed memory is kept, as in pretraining, which helps the others most."""
    keep_freed_memory()
    return choose_device(name)


def usual_precision(device: torch.device) -> Precision:
    """Return the default precision of networks on a device."""
    return "float32" if device.type == "cpu" else choose_precision("auto", device)


def timed(work: Callable[[], float], device: torch.device | None = None) -> Contender:
    """Make a contender of a function that returns its units; waits for `device` if a GPU."""
    is_cuda = device is not None and device.type == "cuda"

    def contender() -> tuple[float, float]:
        if is_cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        units = work()
        if is_cuda:
            torch.cuda.synchronize(device)
        return units, time.perf_counter() - started

    return contender


def compare(
    contenders: Mapping[str, Contender],
    *,
    unit: str,
    rounds: int,
    peaks_on: torch.device | None = None,
) -> list[Row]:
    """Run contenders in turn, so that other work on the machine affects all alike.

    Args:
        contenders: Contenders by name; the first is the reference.
        unit: Name of the units, such as `segments`.
        rounds: Number of rounds that count, after one to warm up.
        peaks_on: Device on which to measure memory in one more round; see `peak_mib`.

    Returns:
        A row for each contender: median, lowest and highest rate, and the median of its ratios to
        the first within a round; with `peaks_on` its peak memory.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, contender in contenders.items():
            units, seconds = contender()
            if round_number > 0:
                rates[name].append(units / seconds)
    first = next(iter(rates.values()))
    rows: list[Row] = [
        {
            "name": name,
            f"{unit}/s": statistics.median(each),
            "low": min(each),
            "high": max(each),
            "ratio": statistics.median(a / b for a, b in zip(each, first, strict=True)),
        }
        for name, each in rates.items()
    ]
    if peaks_on is not None:
        for row in rows:
            row["peak MiB"] = peak_mib(contenders[row["name"]], peaks_on)
    return rows


def peak_mib(work: Callable[[], object], device: torch.device) -> float:
    """Peak memory of a call beyond what was in use before, in MiB.

    Counts tensors on a GPU; on a CPU the resident memory of the process (Linux; nan elsewhere),
    after freed memory has been returned to the system.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not sys.platform.startswith("linux"):
        return float("nan")
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before_kib = _status_kib("VmRSS")
    work()
    return (_status_kib("VmHWM") - before_kib) / 1024


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def describe_machine(*packages: str) -> Row:
    """Describe the machine and its load; figures of a busy machine are preliminary."""
    description: Row = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["python -m", _module_name(), *sys.argv[1:]]),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            description[package] = version(package)
        except PackageNotFoundError:
            description[package] = None
    return description


class Report:
    """Tables, printed as they come and saved as one JSON file.

    Args:
        packages: Packages whose versions to report, besides this one and torch.
        about: Further facts of the measurement, by name.
    """

    def __init__(self, *packages: str, **about: object) -> None:
        machine = {**describe_machine("byola_rq", "torch", *packages), **about}
        self._values: dict[str, Any] = {"machine": machine}
        self._console = Console(soft_wrap=True)
        self._console.print("  ".join(f"{key} {value}" for key, value in machine.items()))

    def add(self, title: str, rows: list[Row]) -> None:
        """Print rows with equal keys as a table, and store them."""
        self._values[title] = rows
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for key, value in rows[0].items():
            table.add_column(key, justify="left" if isinstance(value, str) else "right")
        for row in rows:
            table.add_row(*(_as_text(value) for value in row.values()))
        self._console.print()
        self._console.print(table)

    def save(self, path: Path | None) -> None:
        """Write everything as JSON, if a path is given."""
        if path:
            path.write_text(json.dumps(self._values, indent=1) + "\n", encoding="utf-8")


def _as_text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _module_name() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).name


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "?")
