"""Speed of log-mel spectrograms, compared with libraries and with plain torch operations.

Run from the checkout: python -m benchmarks.frontend --help
"""

from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.harness import (
    Contender,
    Device,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
    open_device,
    timed,
)
from byola_rq.audio.frontend import EPSILON, LogMelSpectrogram
from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.audio.mel import mel_filterbank
from byola_rq.errors import MissingPackageError
from byola_rq.synthesis.generate import KINDS, make_clip

app = new_app()

HOP, N_FFT, BINS, BANDS = 160, 1024, 513, 64

LogMel = Callable[[Tensor], Tensor]

_FEW = 32  # segments, for slow contenders


@app.command()
def main(
    clips: Annotated[int, typer.Option(min=1, help="Segments per batch.")] = 256,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a segment.")] = 0.95,
    rounds: Rounds = 5,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Compute the log-mel spectrograms of a batch, in two tables.

    \b
    1  segments per second: ours, the libraries through the same class, librosa clip by clip as
       its users call it, and torch.stft with a matrix product. Results are first compared with
       ours; `worst` is the largest difference in nat. Peak is added memory, result included
    2  bytes to and from memory of the plain operations, counted from the sizes of their tensors,
       and of ours, whose pieces stay in the cache

    \b
    Examples:
      python -m benchmarks.frontend
      python -m benchmarks.frontend --device cuda --clips 1024 --out frontend.json
    """
    place = open_device(device)
    report = Report("torchaudio", "librosa", "nnAudio")
    waveform = write_waveform(clips, round(seconds * SAMPLE_RATE)).to(place)
    report.add("1 log-mel spectrograms", compare_frontends(waveform, rounds))
    report.add("2 bytes moved, counted", count_bytes(waveform.shape[0], waveform.shape[1]))
    report.save(out)


def write_waveform(num_clips: int, num_samples: int) -> Tensor:
    """Synthesize sounds, some repeated, `(B, S)`."""
    distinct = [
        torch.from_numpy(make_clip(kind, seed=0, seconds=num_samples / SAMPLE_RATE))
        for kind in KINDS[:num_clips]
    ]
    return torch.stack([distinct[number % len(distinct)] for number in range(num_clips)])


def compare_frontends(waveform: Tensor, rounds: int) -> list[Row]:
    """Compare all installed contenders, in segments per second."""
    contenders: dict[str, LogMel] = {"ours": LogMelSpectrogram().to(waveform.device)}
    for name in ("torchaudio", "nnaudio", "librosa"):
        try:
            frontend = LogMelSpectrogram(backend=name).to(waveform.device)
        except MissingPackageError:
            continue
        contenders[f"{name}, clip by clip" if name == "librosa" else name] = (
            one_by_one(frontend) if name == "librosa" else frontend
        )
    contenders["torch.stft, plain"] = plain_chain(waveform.device)
    expected = contenders["ours"](waveform)
    worst = {
        name: (log_mel(waveform) - expected).abs().max().item()
        for name, log_mel in contenders.items()
    }

    def contender(name: str, log_mel: LogMel) -> Contender:
        rows = waveform[:_FEW] if "clip by clip" in name else waveform

        def work() -> float:
            log_mel(rows)
            return len(rows)

        return timed(work, waveform.device)

    rows = compare(
        {name: contender(name, log_mel) for name, log_mel in contenders.items()},
        unit="segments",
        rounds=rounds,
        peaks_on=waveform.device,
    )
    for row in rows:
        row["worst"] = worst[row["name"]]
    return rows


def one_by_one(frontend: LogMel) -> LogMel:
    """Compute one clip at a time."""
    return lambda waveform: torch.stack([frontend(clip) for clip in waveform])


def plain_chain(device: torch.device) -> LogMel:
    """Compute the formulas one operation after the other, over the whole batch."""
    filters = mel_filterbank(SAMPLE_RATE, N_FFT, BANDS, 60, 7800).to(device)
    window = torch.hann_window(N_FFT, device=device)

    def log_mel(waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform, N_FFT, HOP, window=window, pad_mode="reflect", return_complex=True
        )
        power = spectrum.real**2 + spectrum.imag**2
        return torch.log(filters @ power + EPSILON)

    return log_mel


def count_bytes(num_clips: int, num_samples: int) -> list[Row]:
    """Return megabytes read and written by each operation, each tensor once."""
    frames = num_clips * (1 + num_samples // HOP)
    wave, framed = 4 * num_clips * num_samples, 4 * frames * N_FFT
    spectrum, power, mel = 8 * frames * BINS, 4 * frames * BINS, 4 * frames * BANDS
    plain = {
        "pad": 2 * wave,
        "frames x window": wave + framed,
        "rfft": framed + spectrum,
        "squares of both parts": spectrum + 2 * power,
        "their sum": 3 * power,
        "mel": power + mel,
        "add, log": 4 * mel,
    }
    ours = dict.fromkeys(plain, 0) | {"pad": 2 * wave, "frames x window": wave, "mel": mel}
    rows: list[Row] = [
        {"name": name, "plain MB": plain[name] / 1e6, "ours MB": ours[name] / 1e6} for name in plain
    ]
    totals = sum(plain.values()) / 1e6, sum(ours.values()) / 1e6
    return [*rows, {"name": "in all", "plain MB": totals[0], "ours MB": totals[1]}]


if __name__ == "__main__":
    app()
