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
