"""Quality and speed of inverting log-mel spectrograms, compared with librosa and torchaudio.

Run from the checkout: python -m benchmarks.inversion --help
"""

import csv
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.harness import Out, Report, Row, new_app
from byola_rq.audio import inversion
from byola_rq.audio._torchaudio import import_torchaudio
from byola_rq.audio.frontend import EPSILON, LogMelSpectrogram
from byola_rq.audio.inversion import mel_to_audio, mel_to_linear
from byola_rq.audio.io import read_audio
from byola_rq.audio.mel import mel_filterbank

KINDS = {
    "speech": ("fsdd", "spcv2_dev"),
    "music": ("gm_notes_fluidr3",),
    "environment": ("esc10",),
}
OUR_ITERATIONS, THEIR_ITERATIONS = 24, 32  # the defaults of each library


@dataclass(frozen=True)
class Inversion:
    """Result of a method on one log-mel, and its time."""

    power: Tensor  # (n_fft / 2 + 1, T)
    waveform: Tensor  # (S,)
    linear_seconds: float
    phase_seconds: float


Method = Callable[[Tensor, int], Inversion]

app = new_app()


@app.command()
def main(
    data: Annotated[Path, typer.Option(exists=True, help="Folder of the labeled sets.")],
    clips: Annotated[int, typer.Option(min=3, help="Number of clips, a third of each kind.")] = 51,
    curve_clips: Annotated[
        int, typer.Option(min=3, help="Number of these to use for the curves.")
    ] = 12,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest clip.")] = 5.0,
    out: Out = None,
) -> None:
    """Invert the log-mel spectrograms of real clips, and analyze the result.

    The error is the mean absolute difference in nat between the given log-mel and that of the
    inverted sound, averaged over clips, with p95 over clips; linear is that of the intermediate
    linear spectrogram. s/s is seconds per second of sound, in total and for the linear spectrogram;
    the ratio is the median over clips of a method's time to ours. Methods take turns clip by clip,
    each with its default number of iterations.

    \b
    Examples:
      python -m benchmarks.inversion --data shared/data
      python -m benchmarks.inversion --data shared/data --clips 12 --out inversion.json
    """
    report = Report("torchaudio", "librosa")
    kinds, paths = zip(*itertools.islice(choose_clips(data, clips), clips), strict=True)
    waveforms = [read_audio(path, 16000)[: int(seconds * 16000)] for path in paths]
    total = sum(len(waveform) for waveform in waveforms) / 16000
    frontend = LogMelSpectrogram()
    methods = {
        "byola_rq": ours(frontend),
        "torchaudio": torchaudio_s(frontend),
        "librosa": librosa_s(frontend),
    }
    for threads in sorted({1, torch.get_num_threads()}, reverse=True):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):  # librosa's
            rows = measure(methods, waveforms, kinds, frontend)
        report.add(f"{len(waveforms)} clips, {total:.0f} s, {threads} thread(s)", rows)
    few = waveforms[:curve_clips]
    report.add(f"by iterations, the first {len(few)} clips", by_iterations(few, frontend))
    report.add("by momentum, the same clips", by_momentum(few, frontend))
    report.save(out)


def choose_clips(data: Path, num_clips: int) -> Iterator[tuple[str, Path]]:
    """Yield clips of the test parts, alternating kinds, spread evenly over each set."""
    paths: dict[str, list[Path]] = {}
    for kind, folders in KINDS.items():
        sets = []
        for folder in folders:
            with (data / folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
            wanted = -(-num_clips // (len(KINDS) * len(folders)))
            picked = rows[:: max(1, len(rows) // wanted)][:wanted]
            sets.append([data / folder / row["file_name"] for row in picked])
        paths[kind] = [path for together in zip(*sets, strict=True) for path in together]
    for together in zip(*paths.values(), strict=False):
        yield from zip(paths, together, strict=True)


def ours(frontend: LogMelSpectrogram, iterations: int = OUR_ITERATIONS) -> Method:
    """Make a method of mel_to_audio; its linear fit is also timed alone."""

    def invert(log_mel: Tensor, num_samples: int) -> Inversion:
        started = time.perf_counter()
        power = mel_to_linear(log_mel, frontend, iterations=inversion.START_ITERATIONS)[0]
        linear = time.perf_counter() - started
        sound = mel_to_audio(log_mel, frontend, iterations=iterations, num_samples=num_samples)[0]
        return Inversion(power, sound, linear, time.perf_counter() - started - 2 * linear)

    return invert


def in_two_stages(
    linear: Callable[[Tensor], Tensor], phases: Callable[[Tensor, int], Tensor]
) -> Method:
    """Make a method of two stages: mel to linear power, and linear power to sound."""

    def invert(log_mel: Tensor, num_samples: int) -> Inversion:
        started = time.perf_counter()
        power = linear((log_mel.exp() - EPSILON).clamp(min=0))
        between = time.perf_counter()
        sound = phases(power, num_samples)
        return Inversion(power, sound, between - started, time.perf_counter() - between)

    return invert


def torchaudio_s(frontend: LogMelSpectrogram) -> Method:
    """Make torchaudio's method: least squares, then fast Griffin-Lim."""
    inverse = import_torchaudio().transforms.InverseMelScale(
        frontend.n_fft // 2 + 1,
        frontend.n_mels,
        frontend.sample_rate,
        frontend.f_min,
        frontend.f_max,
        norm="slaney",
        mel_scale="slaney",
    )
    return in_two_stages(lambda mel: inverse(mel[None])[0], griffin_lim(frontend, THEIR_ITERATIONS))


def griffin_lim(frontend: LogMelSpectrogram, iterations: int) -> Callable[[Tensor, int], Tensor]:
    """Make torchaudio's Griffin-Lim with momentum 0.99."""

    def phases(power: Tensor, num_samples: int) -> Tensor:
        torch.manual_seed(0)
        waveform: Tensor = import_torchaudio().transforms.GriffinLim(
            frontend.n_fft,
            iterations,
            frontend.win_length,
            frontend.hop_length,
            power=2.0,
            length=num_samples,
        )(power)
        return waveform

    return phases


def librosa_s(frontend: LogMelSpectrogram) -> Method:
    """Make librosa's mel_to_audio: non-negative least squares by L-BFGS-B, fast Griffin-Lim."""
    import librosa

    def linear(mel: Tensor) -> Tensor:
        magnitude = librosa.feature.inverse.mel_to_stft(
            mel.numpy(),
            sr=frontend.sample_rate,
            n_fft=frontend.n_fft,
            power=2.0,
            fmin=frontend.f_min,
            fmax=frontend.f_max,
        )
        return torch.from_numpy(magnitude).square()

    def phases(power: Tensor, num_samples: int) -> Tensor:
        waveform = librosa.griffinlim(
            power.sqrt().numpy(),
            n_iter=THEIR_ITERATIONS,
            n_fft=frontend.n_fft,
            hop_length=frontend.hop_length,
            win_length=frontend.win_length,
            length=num_samples,
            pad_mode="reflect",
            random_state=0,
        )
        return torch.from_numpy(waveform)

    return in_two_stages(linear, phases)


def measure(
    methods: dict[str, Method],
    waveforms: list[Tensor],
    kinds: Sequence[str],
    frontend: LogMelSpectrogram,
) -> list[Row]:
    """Return a row for each method: errors in nat, seconds per second of sound by stage, ratio."""
    for method in methods.values():
        method(frontend(waveforms[0][:8000]), len(waveforms[0][:8000]))  # warms up
    found: dict[str, list[Inversion]] = {name: [] for name in methods}
    log_mels = [frontend(waveform) for waveform in waveforms]
    for log_mel, waveform in zip(log_mels, waveforms, strict=True):
        for name, method in methods.items():
            found[name].append(method(log_mel, len(waveform)))
    length = sum(len(waveform) for waveform in waveforms) / frontend.sample_rate
    times = {n: [i.linear_seconds + i.phase_seconds for i in each] for n, each in found.items()}
    rows = []
    for name, each in found.items():
        pairs = list(zip(each, log_mels, strict=True))
        errors = [round_trip_error(made.waveform, log_mel, frontend) for made, log_mel in pairs]
        row: Row = {"name": name, "error": statistics.mean(errors)}
        row["p95"] = float(np.quantile(errors, 0.95))
        for kind in KINDS:
            row[kind] = statistics.mean(e for e, k in zip(errors, kinds, strict=True) if k == kind)
        row["linear"] = statistics.mean(linear_error(made.power, m, frontend) for made, m in pairs)
        row["linear s/s"] = sum(made.linear_seconds for made in each) / length
        row["s/s"] = sum(times[name]) / length
        ratios = [a / b for a, b in zip(times[name], times["byola_rq"], strict=True)]
        rows.append({**row, "ratio": statistics.median(ratios)})
    return rows


def round_trip_error(waveform: Tensor, log_mel: Tensor, frontend: LogMelSpectrogram) -> float:
    """Mean absolute difference in nat, after analyzing the sound again."""
    return float((frontend(waveform) - log_mel).abs().mean())


def linear_error(power: Tensor, log_mel: Tensor, frontend: LogMelSpectrogram) -> float:
    """Mean absolute difference in nat of the linear power's log-mel."""
    f = frontend
    filters = mel_filterbank(f.sample_rate, f.n_fft, f.n_mels, f.f_min, f.f_max)
    found = (filters @ power.clamp(min=0) + EPSILON).log()
    return float((found - log_mel).abs().mean())


def invert_all(
    method: Method, waveforms: list[Tensor], frontend: LogMelSpectrogram
) -> tuple[float, float]:
    """Return the mean error in nat, and seconds per second of sound."""
    errors, seconds = [], 0.0
    for waveform in waveforms:
        log_mel = frontend(waveform)
        made = method(log_mel, len(waveform))
        seconds += made.linear_seconds + made.phase_seconds
        errors.append(round_trip_error(made.waveform, log_mel, frontend))
    length = sum(len(waveform) for waveform in waveforms) / frontend.sample_rate
    return statistics.mean(errors), seconds / length


def by_iterations(waveforms: list[Tensor], frontend: LogMelSpectrogram) -> list[Row]:
    """Compare iterations of ours, and of Griffin-Lim on magnitudes of our linear spectrogram."""
    rows: list[Row] = []
    for iterations in (1, 2, 4, 8, 16, 32, 64, 128):
        phases = griffin_lim(frontend, iterations)
        fixed = in_two_stages(lambda mel: mel_to_linear((mel + EPSILON).log(), frontend)[0], phases)
        error, seconds = invert_all(ours(frontend, iterations), waveforms, frontend)
        plain, _ = invert_all(fixed, waveforms, frontend)
        rows.append(
            {"iterations": iterations, "error": error, "s/s": seconds, "fixed magnitudes": plain}
        )
    return rows


def by_momentum(waveforms: list[Tensor], frontend: LogMelSpectrogram) -> list[Row]:
    """Compare values of the momentum, a constant of ours."""
    rows: list[Row] = []
    chosen = inversion.MOMENTUM
    for momentum in (0.0, 0.5, 0.8, 0.9, 0.95, 0.99):
        inversion.MOMENTUM = momentum
        error, _ = invert_all(ours(frontend), waveforms, frontend)
        rows.append({"momentum": momentum, "error": error})
    inversion.MOMENTUM = chosen
    return rows


if __name__ == "__main__":
    app()
