import numpy as np
import pytest

from byola_rq.synthesis.primitives import SAMPLE_RATE
from byola_rq.synthesis.recording import (
    BACKGROUNDS,
    Microphone,
    Room,
    Scene,
    draw_scene,
    make_background,
    record,
)

OPEN_AIR = Room(seed=0, decay_seconds=0.2, wetness=0.0, damping=1.0)
FLAT = Microphone(low_hz=0.01, high_hz=1e6, ripple_db=(0.0,) * 7)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_a_recording_has_the_asked_signal_to_noise_ratio(snr_db):
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    recorded = record(tone, Scene(OPEN_AIR, FLAT, "white", snr_db, -20.0), seed=1)
    power = np.abs(np.fft.rfft(recorded * np.hanning(recorded.shape[0]))) ** 2
    is_tone = np.abs(np.arange(power.shape[0]) - 2000) < 5  # a bin is 0.5 Hz
    measured = 10 * np.log10(power[is_tone].sum() / power[~is_tone].sum())
    assert measured == pytest.approx(snr_db, abs=0.2)
    assert 20 * np.log10(recorded.std()) == pytest.approx(-20, abs=0.05)


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_are_seeded_and_sound_throughout(kind):
    first = make_background(kind, seed=1, seconds=2.0)
    np.testing.assert_array_equal(first, make_background(kind, seed=1, seconds=2.0))
    assert not np.array_equal(first, make_background(kind, seed=2, seconds=2.0))
    loudness = first[200:-200].reshape(-1, 100 * 158)[:, :].std(axis=1)
    assert loudness.min() > 0.1 * first.std()


def test_scenes_differ_and_keep_to_their_ranges():
    scenes = [draw_scene(seed, snr_db=(3, 6), level_db=(-30, -20)) for seed in range(50)]
    assert len(set(scenes)) == 50
    assert draw_scene(3, snr_db=(3, 6), level_db=(-30, -20)) == scenes[3]
    assert all(3 <= s.snr_db <= 6 and -30 <= s.level_db <= -20 for s in scenes)
    assert {s.background for s in scenes} == set(BACKGROUNDS)


def test_unknown_backgrounds_are_refused():
    with pytest.raises(ValueError, match="background.*'silence'"):
        make_background("silence", seed=0, seconds=1.0)
