import numpy as np
import pytest

from byola_rq.synthesis.instruments import draw_instrument, play_note, play_phrase


def test_instruments_and_notes_differ_by_seed_alone():
    first, second = draw_instrument("reed", 1), draw_instrument("reed", 2)
    assert first == draw_instrument("reed", 1) != second
    notes = [play_note(one, pitch=60, seed=seed) for one in (first, second) for seed in (0, 1)]
    assert len({note.tobytes() for note in notes}) == 4
    np.testing.assert_array_equal(notes[0], play_note(first, pitch=60, seed=0))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="family.*'kazoo'"):
        draw_instrument("kazoo", 0)
    with pytest.raises(ValueError, match="velocity"):
        play_note(draw_instrument("bass", 0), pitch=40, velocity=0, seed=0)
    with pytest.raises(ValueError, match="seconds"):
        play_note(draw_instrument("bass", 0), pitch=40, seed=0, seconds=0)


def test_a_voice_of_less_than_an_octave_sings():
    singer = draw_instrument("vocal", 83)
    assert len(singer.pitches) <= 13
    assert np.abs(play_phrase(singer, seed=0, seconds=1.0)).max() > 0.01
