import hashlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from byola_rq.synthesis.generate import KINDS, make_clip, write_corpus
from tests.conftest import ROOT

SAMPLES_OF_KINDS = (
    "voice-ru", "word-yes", "note-brass", "phrase-guitar", "event-siren", "background-babble",
    "mixture-voice", "mixture-music", "mixture-street",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sounds_and_is_clean(kind):
    waveform = make_clip(kind, seed=11, seconds=0.8)
    assert waveform.dtype == np.float32
    assert waveform.shape == (12800,)
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 0.951
    assert waveform.std() > 1e-3
    assert np.abs(waveform[[0, -1]]).max() < 1e-6
    step = np.abs(np.diff(waveform[:32])).max()
    assert step < 0.1 * np.abs(waveform).max()  # nothing clicks at the start
    assert abs(waveform.mean()) < 0.02 * waveform.std() + 1e-4


@pytest.mark.parametrize("kind", SAMPLES_OF_KINDS)
@pytest.mark.parametrize("seconds", [0.1, 0.33333, 2.0])
def test_clips_are_exactly_as_long_as_asked(kind, seconds):
    assert make_clip(kind, seed=1, seconds=seconds).shape == (round(seconds * 16000),)


@pytest.mark.parametrize("kind", SAMPLES_OF_KINDS)
def test_a_seed_decides(kind):
    first, again, other = (make_clip(kind, seed=seed, seconds=1.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_another_process_makes_the_same_bits():
    program = (
        "import hashlib; from byola_rq.synthesis.generate import make_clip\n"
        f"for kind in {SAMPLES_OF_KINDS!r}:\n"
        "    clip = make_clip(kind, seed=5, seconds=0.7)\n"
        "    print(hashlib.sha256(clip.tobytes()).hexdigest())"
    )
    root = ROOT
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    here = [make_clip(kind, seed=5, seconds=0.7).tobytes() for kind in SAMPLES_OF_KINDS]
    assert out.split() == [hashlib.sha256(clip).hexdigest() for clip in here]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="kind.*'voice-tlh'"):
        make_clip("voice-tlh", seed=0, seconds=1.0)
    with pytest.raises(ValueError, match="seconds"):
        make_clip("voice-de", seed=0, seconds=-1.0)


def test_a_corpus_is_a_folder_of_mixed_clips(tmp_path):
    counts = []
    paths = write_corpus(
        tmp_path / "a", num_clips=25, seed=3, seconds=(0.4, 0.9), on_clip=counts.append
    )
    assert counts == list(range(1, 26))
    assert sorted((tmp_path / "a").iterdir()) == sorted(paths)
    assert len({path.stem.split("_")[1].split("-")[0] for path in paths}) >= 4
    assert all(path.stem.split("_", 1)[1] in KINDS for path in paths)
    lengths = set()
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.4 <= info.duration <= 0.9
        lengths.add(info.frames)
    assert len(lengths) > 15
    shorter = write_corpus(tmp_path / "b", num_clips=4, seed=3, seconds=(0.4, 0.9))
    assert [p.name for p in shorter] == [p.name for p in paths[:4]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(shorter, paths, strict=False))
