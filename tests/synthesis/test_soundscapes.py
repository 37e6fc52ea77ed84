import numpy as np
import pytest

from byola_rq.synthesis.primitives import SAMPLE_RATE
from byola_rq.synthesis.soundscapes import EVENTS, make_event

URBAN_SOUND = {
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling",
    "gun_shot", "jackhammer", "siren", "street_music",
}  # fmt: skip


def test_all_classes_of_urban_sound_are_there():
    assert set(EVENTS) >= URBAN_SOUND


def track_pitch(waveform):
    """Hz of the strongest period from 300 to 2000 Hz in every loud 64 ms."""
    frames = waveform[: waveform.shape[0] // 1024 * 1024].reshape(-1, 1024).astype(float)
    frames = frames[frames.std(axis=1) > 0.5 * np.median(frames.std(axis=1))]
    power = np.abs(np.fft.rfft(frames * np.hanning(1024), 8192)) ** 2
    bins = np.fft.rfftfreq(8192, 1 / SAMPLE_RATE)
    heard = (bins > 300) & (bins < 2000)
    return bins[heard][power[:, heard].argmax(axis=1)]


@pytest.mark.parametrize("seed", range(6))
def test_a_siren_sweeps(seed):
    low, high = np.percentile(track_pitch(make_event("siren", seed=seed, seconds=5.0)), [10, 90])
    assert high > 1.15 * low  # its two tones are at least 0.24 octaves, a factor of 1.18, apart


def test_a_horn_keeps_its_pitch_within_the_doppler_shift():
    track = track_pitch(make_event("car_horn", seed=0, seconds=5.0))
    middle = np.median(track)
    assert np.mean(np.abs(track / middle - 1) < 0.06) > 0.5


def repetition_hz(waveform, low, high):
    """The rate at which loudness repeats itself."""
    loudness = np.sqrt(np.convolve(waveform.astype(float) ** 2, np.ones(32) / 32, "same"))[::16]
    loudness -= loudness.mean()
    correlation = np.correlate(loudness, loudness, "full")[loudness.shape[0] - 1 :]
    shortest, longest = int(1000 / high), int(1000 / low)
    lag = shortest + np.argmax(correlation[shortest:longest])
    return 1000 / lag, correlation[lag] / correlation[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_jackhammer_strikes_at_its_own_steady_rate(seed):
    rates = []
    for slice_number in range(2):
        waveform = make_event("jackhammer", seed=seed, seconds=3.0, slice_number=slice_number)
        rate, strength = repetition_hz(waveform, 10.5, 30)
        assert strength > 0.2
        rates.append(rate)
    assert rates[0] == pytest.approx(rates[1], rel=0.06)


def test_gun_shots_are_sudden_and_air_conditioners_are_not():
    def crest(name):
        waveforms = [make_event(name, seed=seed, seconds=2.0) for seed in range(4)]
        return np.mean([np.abs(w).max() / w.std() for w in waveforms])

    assert crest("gun_shot") > 8
    assert crest("air_conditioner") < 6


@pytest.mark.parametrize("name", EVENTS)
def test_slices_share_a_recording_and_nothing_else(name):
    first = make_event(name, seed=1, seconds=1.5)
    np.testing.assert_array_equal(first, make_event(name, seed=1, seconds=1.5, slice_number=0))
    second = make_event(name, seed=1, seconds=1.5, slice_number=1)
    other = make_event(name, seed=2, seconds=1.5)
    for waveform in (second, other):
        assert abs(np.corrcoef(first, waveform)[0, 1]) < 0.5


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("seconds", [0.01, 0.1])
def test_events_can_be_very_short(name, seconds):
    for seed in range(3):
        waveform = make_event(name, seed=seed, seconds=seconds)
        assert waveform.shape == (round(seconds * SAMPLE_RATE),)
        assert np.isfinite(waveform).all()
        assert waveform.any()


def test_unknown_events_are_refused():
    with pytest.raises(ValueError, match="event.*'applause'"):
        make_event("applause", seed=0, seconds=1.0)
