"""Log-mel spectrograms back to sound: against scipy, librosa and torchaudio, and the edges."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor

from byola_rq.audio import inversion
from byola_rq.audio._torchaudio import import_torchaudio
from byola_rq.audio.frontend import EPSILON, LogMelSpectrogram, Statistics
from byola_rq.audio.inversion import mel_to_audio, mel_to_linear
from byola_rq.audio.io import read_audio
from byola_rq.audio.mel import mel_filterbank
from byola_rq.augment.quantize import RandomizedQuantization

FRONTEND = LogMelSpectrogram()
FILTERS = mel_filterbank(16000, 1024, 64, 60, 7800)


def read_sounds(folder: Path, num_clips: int = 6) -> list[Tensor]:
    return [read_audio(path, 16000)[:16000] for path in sorted(folder.glob("*.wav"))[:num_clips]]


def analyse_power(power: Tensor) -> Tensor:
    return (FILTERS @ power + EPSILON).log()


def round_trip_error(waveform: Tensor, log_mel: Tensor) -> float:
    return (FRONTEND(waveform) - log_mel).abs().mean().item()


def rms(waveform: Tensor) -> float:
    return waveform.square().mean().sqrt().item()


def quantize(log_mel: Tensor, num_bins: int) -> Tensor:
    """A view: no waveform has this log-mel."""
    log_mel = log_mel.reshape(-1, 1, *log_mel.shape[-2:])
    return RandomizedQuantization(num_bins=num_bins)(log_mel, key=torch.arange(len(log_mel)))


# the linear spectrogram


def test_linear_power_fits_where_scipy_s_nnls_fits(sounds: Path) -> None:
    for waveform in read_sounds(sounds):
        log_mel = FRONTEND(waveform)[:, ::25]
        power = mel_to_linear(log_mel, FRONTEND)
        assert power.shape == (1, 513, log_mel.shape[1])
        assert power.min() >= 0
        for frame in range(log_mel.shape[1]):
            target = (log_mel[:, frame].exp() - EPSILON).clamp(min=0).double().numpy()
            solution, _ = nnls(FILTERS.double().numpy(), target)
            theirs = analyse_power(torch.from_numpy(solution).float()) - log_mel[:, frame]
            ours = analyse_power(power[0, :, frame]) - log_mel[:, frame]
            # nnls stops where the residual is small beside the loudest band.
            assert ours.abs().mean() < max(0.005, theirs.abs().mean().item())


def test_linear_power_of_a_view_is_the_best_there_is(sounds: Path) -> None:
    """Of targets that nothing fits: as good as a general optimizer of the same divergence."""
    filters = FILTERS.double().numpy()
    log_mel = quantize(FRONTEND(read_sounds(sounds)[1])[:, 10:90], num_bins=3)[0, 0]
    for frame in (5, 40, 75):
        column = log_mel[:, frame : frame + 1]
        target = column[:, 0].double().exp().numpy()
        start = mel_to_linear(column, FRONTEND, iterations=1)[0, :, 0].double().numpy()
        ours = mel_to_linear(column, FRONTEND, iterations=500)[0, :, 0].double().numpy()
        best = minimize(
            # In units of the start: the powers differ by many orders of magnitude.
            lambda x, start, target: divergence(x * start, filters, target, start),
            np.ones(513),
            args=(start, target),
            jac=True,
            bounds=[(0, None)] * 513,
            method="L-BFGS-B",
            options={"maxiter": 3000, "maxfun": 6000},
        )
        assert divergence(start, filters, target, start)[0] > 1.5 * best.fun
        assert divergence(ours, filters, target, start)[0] < 1.02 * best.fun + 1e-3


def divergence(
    power: np.ndarray, filters: np.ndarray, target: np.ndarray, unit: np.ndarray
) -> tuple[float, np.ndarray]:
    """Itakura-Saito, and its slope by power in `unit`."""
    ratio = target / (filters @ power + EPSILON)
    slope = filters.T @ ((1 - ratio) * ratio / target)
    return float(np.sum(ratio - np.log(ratio) - 1)), slope * unit


def test_linear_power_is_zero_where_no_filter_looks() -> None:
    power = mel_to_linear(FRONTEND(torch.randn(2, 8000) * 0.1), FRONTEND)
    unseen = FILTERS.sum(dim=0) == 0
    assert unseen.sum() > 10
    assert (power[:, unseen] == 0).all()
    assert (power[:, ~unseen] > 0).all()


def test_linear_frames_are_fitted_by_themselves() -> None:
    log_mel = FRONTEND(torch.randn(3, 8000) * 0.1)
    together = mel_to_linear(log_mel, FRONTEND)
    alone = mel_to_linear(log_mel[1:2, :, 7:8], FRONTEND)
    torch.testing.assert_close(together[1:2, :, 7:8], alone, rtol=1e-3, atol=1e-7)


# the round trip, beside others


def test_error_is_a_third_of_torchaudio_s(sounds: Path) -> None:
    transforms = import_torchaudio().transforms
    inverse = transforms.InverseMelScale(
        513, 64, 16000, 60.0, 7800.0, norm="slaney", mel_scale="slaney"
    )
    griffin_lim = transforms.GriffinLim(1024, 32, 1024, 160, power=2.0, length=16000)
    for waveform in read_sounds(sounds):
        log_mel = FRONTEND(waveform)
        torch.manual_seed(0)
        theirs = griffin_lim(inverse((log_mel.exp() - EPSILON)[None]).clamp(min=0))[0]
        ours = mel_to_audio(log_mel, FRONTEND)[0]
        assert round_trip_error(ours, log_mel) < round_trip_error(theirs, log_mel) / 3


@pytest.mark.slow
def test_phases_fit_the_mel_twice_as_well_as_librosa_s(sounds: Path) -> None:
    """Griffin-Lim alone, of the linear spectrogram that ours starts from."""
    librosa = pytest.importorskip("librosa")
    distances = []
    for waveform in read_sounds(sounds, 4):
        log_mel = FRONTEND(waveform)
        magnitude = mel_to_linear(log_mel, FRONTEND)[0].sqrt().numpy()
        theirs = torch.from_numpy(
            librosa.griffinlim(
                magnitude, hop_length=160, length=len(waveform), pad_mode="reflect", random_state=0
            )
        )
        ours = mel_to_audio(log_mel, FRONTEND, num_samples=len(waveform))[0]
        assert round_trip_error(ours, log_mel) < round_trip_error(theirs, log_mel) / 2
        distances.append([spectral_distance(x, waveform) for x in (ours, theirs)])
    # The price of magnitudes that move: the true linear spectrogram is missed by hardly more.
    of_ours, of_theirs = np.mean(distances, axis=0)
    assert of_ours < 1.1 * of_theirs


def spectral_distance(waveform: Tensor, truth: Tensor) -> float:
    """Mean absolute log-magnitude difference above -60 dB, linear frequency."""
    window = torch.hann_window(1024)
    found, true = (
        torch.stft(x, 1024, 160, window=window, return_complex=True).abs()
        for x in (waveform, truth)
    )
    floor = true.max() * 1e-3
    return ((found + floor).log() - (true + floor).log()).abs().mean().item()


def test_more_rounds_leave_less_error(sounds: Path) -> None:
    log_mel = FRONTEND(torch.stack(read_sounds(sounds)))
    errors = [
        round_trip_error(mel_to_audio(log_mel, FRONTEND, iterations=n), log_mel)
        for n in (1, 4, 16, 64)
    ]
    assert all(later < 0.8 * earlier for earlier, later in pairwise(errors))


def test_error_on_real_recordings(recordings: Path) -> None:
    paths = sorted(path for path in recordings.glob("*/audio/**/*.*") if path.is_file())
    errors = []
    for path in paths[:: len(paths) // 20]:
        waveform = read_audio(path, 16000)[:16000]
        log_mel = FRONTEND(waveform)
        sound = mel_to_audio(log_mel, FRONTEND, num_samples=len(waveform))
        errors.append(round_trip_error(sound[0], log_mel))
    assert np.mean(errors) < 0.1
    assert max(errors) < 0.4


# loudness


@pytest.mark.parametrize("hertz", [150.0, 440.0, 3000.0, 7000.0])
@pytest.mark.parametrize("amplitude", [1.0, 0.03])
def test_a_sine_keeps_its_loudness_within_half_a_decibel(hertz: float, amplitude: float) -> None:
    sine = amplitude * torch.sin(2 * math.pi * hertz * torch.arange(16000) / 16000)
    sound = mel_to_audio(FRONTEND(sine), FRONTEND)[0]
    assert abs(20 * math.log10(rms(sound) / rms(sine))) < 0.5


def test_silence_gives_silence() -> None:
    silence = FRONTEND(torch.zeros(2, 15200))
    assert not mel_to_audio(silence, FRONTEND).any()
    assert not mel_to_linear(silence, FRONTEND).any()
    assert not mel_to_audio(silence - 100, FRONTEND).any()  # below the floor


def test_silence_around_a_sound_stays_silent() -> None:
    waveform = torch.zeros(16000)
    waveform[6000:9000] = torch.randn(3000, generator=torch.Generator().manual_seed(1)) * 0.3
    sound = mel_to_audio(FRONTEND(waveform), FRONTEND)[0]
    assert rms(sound[:4500]) < 1e-4
    assert rms(sound[10500:]) < 1e-4
    assert abs(20 * math.log10(rms(sound) / rms(waveform))) < 1


def test_a_clipped_sound_is_neither_clipped_nor_scaled() -> None:
    square = torch.sin(2 * math.pi * 220 * torch.arange(16000) / 16000).sign()
    log_mel = FRONTEND(square)
    sound = mel_to_audio(log_mel, FRONTEND)[0]
    assert abs(20 * math.log10(rms(sound) / rms(square))) < 0.5
    assert sound.abs().max() > 1
    quiet = mel_to_audio(log_mel - math.log(10000), FRONTEND)[0]
    assert abs(20 * math.log10(rms(sound) / rms(quiet)) - 40) < 0.5


# shapes, lengths, framings


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 8, 33, 96])
def test_lengths(num_frames: int) -> None:
    log_mel = FRONTEND(torch.randn(2, 15200) * 0.1)[..., :num_frames]
    waveform = mel_to_audio(log_mel, FRONTEND)
    assert waveform.shape == (2, 160 * (num_frames - 1) or 159)
    assert 0.05 < rms(waveform) < 0.2
    if waveform.shape[1] >= FRONTEND.min_samples:
        assert FRONTEND(waveform).shape == log_mel.shape
        assert round_trip_error(waveform, log_mel) < 0.15
    longest = mel_to_audio(log_mel, FRONTEND, num_samples=160 * num_frames - 1)
    assert longest.shape == (2, 160 * num_frames - 1)
    for wrong in (160 * (num_frames - 1) - 1, 160 * num_frames):
        with pytest.raises(ValueError, match="num_samples"):
            mel_to_audio(log_mel, FRONTEND, num_samples=wrong)


def test_ranks_and_types() -> None:
    log_mel = FRONTEND(torch.randn(3, 1, 8000) * 0.1)  # (B, 1, F, T)
    waveform = mel_to_audio(log_mel, FRONTEND)
    assert waveform.shape == (3, 8000)
    assert torch.equal(mel_to_audio(log_mel[:, 0], FRONTEND), waveform)
    assert torch.equal(mel_to_audio(log_mel[1, 0], FRONTEND), waveform[1:2])
    double = mel_to_audio(log_mel.double(), FRONTEND)
    assert double.dtype == torch.float32
    assert torch.equal(double, waveform)
    assert mel_to_audio(log_mel.bfloat16(), FRONTEND).dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"n_fft": 512, "win_length": 400},
        {"n_fft": 2048, "win_length": 2048, "hop_length": 441, "n_mels": 40},
        {"n_fft": 512, "win_length": 160, "hop_length": 160},  # torch.istft refuses this one
        {"n_fft": 401, "win_length": 401, "hop_length": 100, "n_mels": 32},
        {"sample_rate": 44100, "n_mels": 128, "f_min": 0, "f_max": 22050},  # has empty filters
        {"backend": "torchaudio"},
    ],
)
def test_other_frontends(options: dict[str, object]) -> None:
    frontend = LogMelSpectrogram(**options)  # type: ignore[arg-type]
    log_mel = frontend(torch.randn(1, 16000) * 0.1)
    waveform = mel_to_audio(log_mel, frontend, num_samples=16000)
    assert (frontend(waveform) - log_mel).abs().mean() < 0.15


def test_least_squares_gives_a_waveform_back_from_its_frames() -> None:
    framing = inversion._Framing.of(FRONTEND, torch.device("cpu"))
    waveform = torch.randn(2, 16100)
    spectrum = framing.analyze(waveform)
    weights = 1 + 100 * torch.rand(2, spectrum.shape[1], 1)
    envelope = framing.envelope(weights, 16100)
    back = framing.synthesize(spectrum * weights, envelope)
    torch.testing.assert_close(back, waveform, atol=1e-4, rtol=0)


# what a result depends on


def test_the_seed_decides() -> None:
    log_mel = FRONTEND(torch.randn(1, 8000) * 0.1)
    state = torch.get_rng_state()
    first = mel_to_audio(log_mel, FRONTEND, seed=3)
    assert torch.equal(mel_to_audio(log_mel, FRONTEND, seed=3), first)
    assert not torch.equal(mel_to_audio(log_mel, FRONTEND, seed=4), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_clip_is_the_same_alone_and_in_a_batch(sounds: Path) -> None:
    log_mel = FRONTEND(torch.stack(read_sounds(sounds)))
    together = mel_to_audio(log_mel, FRONTEND)
    for i in range(len(log_mel)):
        assert torch.equal(mel_to_audio(log_mel[i], FRONTEND)[0], together[i])


def test_clips_computed_together_do_not_mix(sounds: Path) -> None:
    """As a GPU does it: what differs is rounding, no more than rounding of the input makes."""
    mel = FRONTEND(torch.stack(read_sounds(sounds))).transpose(1, 2).exp()
    framing = inversion._Framing.of(FRONTEND, torch.device("cpu"))
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    together = inversion._fit_waveform(mel, FILTERS, framing, noise, 24)
    for i in range(len(mel)):
        alone = inversion._fit_waveform(mel[i : i + 1], FILTERS, framing, noise, 24)[0]
        nudged = mel[i : i + 1] * (1 + 4 * EPSILON)
        spread = rms(inversion._fit_waveform(nudged, FILTERS, framing, noise, 24)[0] - alone)
        assert rms(together[i] - alone) <= 10 * spread
        assert rms(together[i] - alone) < 0.01 * rms(alone)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_sound(sounds: Path) -> None:
    log_mel = FRONTEND(torch.stack(read_sounds(sounds)))
    on_gpu = mel_to_audio(log_mel.cuda(), FRONTEND)
    assert on_gpu.is_cuda
    assert round_trip_error(on_gpu.cpu(), log_mel) < 0.1
    linear = mel_to_linear(log_mel.cuda(), FRONTEND).cpu()
    torch.testing.assert_close(linear, mel_to_linear(log_mel, FRONTEND), rtol=1e-2, atol=1e-6)


def test_statistics_are_undone() -> None:
    statistics = Statistics(mean=-7.1, std=4.2)
    standardized = statistics.standardize(FRONTEND(torch.randn(2, 8000) * 0.1))
    log_mel = standardized * 4.2 - 7.1
    for invert in (mel_to_audio, mel_to_linear):
        expected = invert(log_mel, FRONTEND)
        assert torch.equal(invert(standardized, FRONTEND, statistics=statistics), expected)


def test_nothing_is_recorded_or_changed() -> None:
    frontend = LogMelSpectrogram()
    log_mel = frontend(torch.randn(1, 8000) * 0.1).requires_grad_()
    before = [log_mel.detach().clone(), *(b.clone() for b in frontend.buffers())]
    waveform = mel_to_audio(log_mel, frontend)
    assert not waveform.requires_grad
    assert not mel_to_linear(log_mel, frontend).requires_grad
    after = [log_mel.detach(), *frontend.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel_to_audio(log_mel, frontend), waveform)


@pytest.mark.parametrize("num_bins", [1, 2, 5, 30])
def test_views_that_no_sound_has_are_approached(sounds: Path, num_bins: int) -> None:
    waveform = torch.stack(read_sounds(sounds))
    log_mel = FRONTEND(waveform)
    view = quantize(log_mel, num_bins)
    sound = mel_to_audio(view, FRONTEND)
    assert sound.abs().max() < 10
    # The sound made from a view is nearer to the view than the clip itself is.
    distortion = (view[:, 0] - log_mel).abs().mean().item()
    if num_bins <= 5:
        assert round_trip_error(sound, view[:, 0]) < 0.7 * distortion


# wrong input


@pytest.mark.parametrize(
    ("log_mel", "value"),
    [
        (torch.zeros(64), r"\(64,\)"),
        (torch.zeros(2, 96, 64), r"\(2, 96, 64\)"),
        (torch.zeros(2, 2, 64, 96), r"\(2, 2, 64, 96\)"),
        (torch.zeros(2, 1, 64, 0), r"\(2, 1, 64, 0\)"),
        (torch.zeros(0, 64, 8), r"\(0, 64, 8\)"),
        (torch.zeros(64, 8, dtype=torch.int64), "int64"),
        (torch.full((64, 8), math.nan), "nan"),
        (torch.full((64, 8), -math.inf), "-inf"),
        (torch.full((64, 8), 31.0), "31"),
    ],
)
def test_wrong_input_is_refused(log_mel: Tensor, value: str) -> None:
    for invert in (mel_to_audio, mel_to_linear):
        with pytest.raises(ValueError, match=f"log_mel.*{value}"):
            invert(log_mel, FRONTEND)


@pytest.mark.parametrize("iterations", [0, -1])
def test_iterations_are_at_least_one(iterations: int) -> None:
    for invert in (mel_to_audio, mel_to_linear):
        with pytest.raises(ValueError, match="iterations"):
            invert(torch.zeros(64, 8), FRONTEND, iterations=iterations)
