"""Log-mel spectrograms: four backends that agree, and the definition."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from byola_rq import LogMelSpectrogram
from byola_rq.audio._torchaudio import has_compiled_part, import_torchaudio
from byola_rq.audio.frontend import Statistics, measure_statistics
from byola_rq.audio.io import fit_length, read_audio
from byola_rq.audio.mel import mel_filterbank

BACKENDS = ("torch", "nnaudio", "torchaudio", "librosa")
AGREEMENT = 1e-3  # nat


def worst_disagreement(paths: list[Path]) -> dict[str, float]:
    frontends = {name: LogMelSpectrogram(backend=name) for name in BACKENDS}
    worst = dict.fromkeys(BACKENDS, 0.0)
    for path in paths:
        waveform = fit_length(read_audio(path, 16000), 32000)[None]
        outputs = {name: frontend(waveform) for name, frontend in frontends.items()}
        for name, output in outputs.items():
            distance = max((output - other).abs().max().item() for other in outputs.values())
            worst[name] = max(worst[name], distance)
    return worst


def test_backends_agree_on_real_recordings(recordings: Path) -> None:
    paths = sorted(path for path in recordings.glob("*/audio/**/*.*") if path.is_file())
    worst = worst_disagreement(paths[:: len(paths) // 40])
    assert max(worst.values()) < AGREEMENT, worst


def test_backends_agree_on_synthesized_sounds(sounds: Path) -> None:
    worst = worst_disagreement(sorted(sounds.glob("*.wav")))
    assert max(worst.values()) < AGREEMENT, worst


@pytest.mark.parametrize("win_length", [1024, 640])
def test_log_mel_is_its_definition(win_length: int) -> None:
    """Compute one frame in float64, straight from the formulas."""
    waveform = torch.randn(2000, dtype=torch.float64) * 0.1
    frame = np.pad(waveform.numpy(), 512, mode="reflect")[3 * 160 : 3 * 160 + 1024]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    window = np.pad(window, (1024 - win_length) // 2)
    power = np.abs(np.fft.rfft(frame * window)) ** 2
    filters = mel_filterbank(16000, 1024, 64, 60, 7800).double().numpy()
    expected = np.log(filters @ power + 2.0**-23)
    log_mel = LogMelSpectrogram(win_length=win_length)(waveform)
    assert log_mel.dtype == torch.float32
    np.testing.assert_allclose(log_mel[:, 3].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 15200), {}),
        ((9, 15200), {}),  # pieces of eight clips and one
        ((2, 513), {}),
        ((3, 161234), {}),  # 1008 frames: pieces of a clip
        ((5, 16001), {"win_length": 640}),
        ((5, 16000), {"n_fft": 401, "win_length": 400, "n_mels": 3}),
        ((2, 16000), {"sample_rate": 8000, "n_fft": 256, "win_length": 255, "f_max": 4000}),
    ],
)
def test_pieces_are_the_plain_chain(shape: tuple[int, int], options: dict[str, float]) -> None:
    """A waveform that wants a gradient goes through torch.stft."""
    frontend = LogMelSpectrogram(**options)  # type: ignore[arg-type]
    waveform = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
    wanted = waveform.clone().requires_grad_()
    plain = frontend(wanted)
    torch.testing.assert_close(frontend(waveform), plain.detach(), atol=2e-5, rtol=0)
    plain.sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.abs().sum() > 0


def test_a_clip_s_log_mel_does_not_depend_on_its_batch() -> None:
    frontend = LogMelSpectrogram()
    waveform = torch.randn(11, 15200) * 0.1
    together = frontend(waveform)
    for number in range(11):
        assert torch.equal(frontend(waveform[number]), together[number])
    assert frontend(waveform[:0]).shape == (0, 64, 96)


def test_any_layout_and_float_type_will_do() -> None:
    frontend = LogMelSpectrogram()
    waveform = torch.randn(15200, 4) * 0.1
    assert torch.equal(frontend(waveform.T), frontend(waveform.T.contiguous()))
    assert torch.equal(frontend(waveform.T.double()), frontend(waveform.T))
    untouched = waveform.clone()
    frontend(waveform.T)
    assert torch.equal(waveform, untouched)


@pytest.mark.gpu
def test_devices_agree() -> None:
    frontend = LogMelSpectrogram()
    waveform = torch.randn(70, 15200) * 0.1
    on_cpu = frontend(waveform)
    on_gpu = frontend.cuda()(waveform.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "low", "high"),
    [(16000, 1024, 64, 60, 7800), (44100, 2048, 128, 0, 22050), (16000, 512, 40, 20, 8000)],
)
def test_filterbank_is_librosa_s(rate: int, n_fft: int, n_mels: int, low: int, high: int) -> None:
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high)
    np.testing.assert_allclose(
        mel_filterbank(rate, n_fft, n_mels, low, high).numpy(), expected, atol=1e-7
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes_and_persistence(backend: str) -> None:
    frontend = LogMelSpectrogram(backend=backend)
    assert frontend(torch.zeros(15200)).shape == (64, 96)
    assert frontend(torch.zeros(2, 3, 15200)).shape == (2, 3, 64, 96)
    silence = frontend(torch.zeros(15200))
    torch.testing.assert_close(silence, torch.full((64, 96), math.log(2.0**-23)))
    assert frontend.state_dict() == {}
    assert LogMelSpectrogram(**frontend.options).options == frontend.options


def test_autocast_does_not_reach_the_frontend() -> None:
    frontend = LogMelSpectrogram()
    for waveform in (torch.randn(1, 15200), torch.randn(1, 15200, requires_grad=True)):
        with torch.autocast("cpu", torch.bfloat16):
            inside = frontend(waveform)
        assert torch.equal(inside, frontend(waveform))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backend": "essentia"}, "backend"),
        ({"f_max": 9000}, "9000"),
        ({"f_min": 8000, "f_max": 100}, "f_min"),
        ({"f_min": -1}, "f_min"),
        ({"win_length": 2048}, "win_length"),
        ({"hop_length": 0}, "hop_length"),
        ({"hop_length": 65_537}, "hop_length"),
        ({"n_mels": 513}, "n_mels"),
        ({"n_fft": 131_072}, "n_fft"),
        ({"sample_rate": 10**9}, "sample_rate"),
        ({"n_mels": True}, "n_mels"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LogMelSpectrogram(**options)  # type: ignore[arg-type]


def test_wrong_waveforms_are_refused() -> None:
    with pytest.raises(ValueError, match="512"):
        LogMelSpectrogram()(torch.zeros(512))
    with pytest.raises(ValueError, match="int16"):
        LogMelSpectrogram()(torch.zeros(2000, dtype=torch.int16))


def test_statistics_are_mean_and_std_of_all_elements() -> None:
    batches = [torch.randn(n, 1, 8, 9) * 3 - 7 for n in (4, 1, 6)]
    together = torch.cat([batch.flatten() for batch in batches]).double()
    measured = measure_statistics(iter(batches))
    assert measured.mean == pytest.approx(together.mean().item(), rel=1e-9)
    assert measured.std == pytest.approx(together.std(correction=0).item(), rel=1e-6)
    standardized = measured.standardize(torch.cat([batch.flatten() for batch in batches]))
    assert abs(standardized.mean()) < 1e-5
    assert standardized.std() == pytest.approx(1, abs=1e-2)
    assert Statistics(1.0, 2.0).standardize(torch.tensor([5.0])).item() == 2.0


def test_statistics_need_spread() -> None:
    with pytest.raises(ValueError, match="log-mel.* none"):
        measure_statistics([])
    with pytest.raises(ValueError, match="-15.94"):
        measure_statistics([torch.full((2, 64, 96), math.log(2.0**-23))])
    with pytest.raises(ValueError, match=r"3\.3"):  # the difference of their sums is not 0
        measure_statistics([torch.full((1000,), 3.3)])


def test_torchaudio_works_beside_this_torch() -> None:
    torchaudio = import_torchaudio()
    assert has_compiled_part() == any("torchaudio" in path for path in torch.ops.loaded_libraries)
    waveform = torch.randn(1, 4000)
    spectrum = torchaudio.transforms.Spectrogram(n_fft=256)(waveform)
    assert spectrum.shape == (1, 129, 32)
    decibels = torchaudio.functional.amplitude_to_DB(spectrum, 10.0, 1e-10, 0.0)
    torch.testing.assert_close(decibels, 10 * spectrum.clamp(min=1e-10).log10())
    filtered = torchaudio.functional.lowpass_biquad(waveform, 16000, 1000.0)
    assert filtered.square().mean() < waveform.square().mean() / 2
    assert import_torchaudio() is torchaudio
