"""Generator of synthetic clips of any kind, and of unlabeled corpora of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from byola_rq.synthesis.instruments import FAMILIES, draw_instrument, play_note, play_phrase
from byola_rq.synthesis.languages import LANGUAGES, WORDS
from byola_rq.synthesis.primitives import (
    SAMPLE_RATE,
    Waveform,
    count_samples,
    finish,
    make_generator,
    make_seed,
)
from byola_rq.synthesis.recording import BACKGROUNDS, draw_scene, make_background, record
from byola_rq.synthesis.soundscapes import EVENTS, make_event
from byola_rq.synthesis.voices import draw_speaker, say_sentences, say_word

# Composition of a corpus: a group is drawn by its share, then a kind uniformly within the group.
_GROUPS: dict[str, tuple[float, tuple[str, ...]]] = {
    "voice": (0.3, tuple(LANGUAGES)),
    "word": (0.1, tuple(WORDS)),
    "note": (0.12, tuple(FAMILIES)),
    "phrase": (0.13, tuple(FAMILIES)),
    "event": (0.2, tuple(EVENTS)),
    "background": (0.03, BACKGROUNDS),
    "mixture": (0.12, ("voice", "music", "street")),
}
KINDS: tuple[str, ...] = tuple(
    f"{group}-{name}" for group, (_, names) in _GROUPS.items() for name in names
)


def make_clip(kind: str, *, seed: int, seconds: float) -> Waveform:
    """Generate a clip of one of KINDS, with the acoustics of a recording.

    Args:
        kind: One of KINDS, such as `voice-fr`, `note-brass`, `event-siren`, `mixture-street`.
        seed: Seed of everything else: speaker or instrument, content, room.
        seconds: Length of the clip in seconds.

    Returns:
        Waveform `(S,)`, float32 at 16 kHz in [-1, 1].

    Raises:
        ValueError: If `kind` is unknown or `seconds` not positive.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    group, name = kind.split("-")
    if group == "background":
        return make_background(name, seed=seed, seconds=seconds)
    waveform = _make_dry(group, name, seed=seed, seconds=seconds)
    scene = draw_scene(make_seed("scene", kind, seed))
    return record(waveform, scene, seed=make_seed("moment", kind, seed))


def _make_dry(group: str, name: str, *, seed: int, seconds: float) -> Waveform:
    rng = make_generator("dry", group, name, seed)
    source_seed, moment_seed = (int(number) for number in rng.integers(2**31, size=2))
    if group == "mixture":
        return _mix(name, seed=seed, seconds=seconds, rng=rng)
    if group == "event":
        return make_event(name, seed=source_seed, seconds=seconds)
    if group == "voice":
        return say_sentences(name, draw_speaker(source_seed), seed=moment_seed, seconds=seconds)
    if group == "word":
        return say_word(name, draw_speaker(source_seed), seed=moment_seed, seconds=seconds)
    instrument = draw_instrument(name, source_seed)
    if group == "phrase":
        return play_phrase(instrument, seed=moment_seed, seconds=seconds)
    pitch, velocity = int(rng.choice(instrument.pitches)), int(rng.integers(25, 128))
    return play_note(instrument, pitch=pitch, velocity=velocity, seconds=seconds, seed=moment_seed)


def _mix(name: str, *, seed: int, seconds: float, rng: np.random.Generator) -> Waveform:
    """Mix two sounds, the first louder by 0 to 12 dB."""
    pairs = {"voice": ("voice", "phrase"), "music": ("phrase", "phrase"), "street": ("event",) * 2}
    total = np.zeros(count_samples(seconds))
    for place, group in enumerate(pairs[name]):
        member = str(rng.choice(_GROUPS[group][1]))
        part = _make_dry(group, member, seed=make_seed(seed, place), seconds=seconds)
        total += part * 10 ** (-place * rng.uniform(0, 12) / 20)
    return finish(total, -22.0)


def write_corpus(
    folder: Path,
    *,
    num_clips: int,
    seed: int,
    seconds: tuple[float, float] = (2.0, 6.0),
    on_clip: Callable[[int], None] | None = None,
) -> list[Path]:
    """Fill a folder with unlabeled clips of mixed kinds, as 16-bit wav.

    Args:
        folder: Folder to fill; created if missing.
        num_clips: Number of clips; a shorter corpus is a prefix of a longer one.
        seed: Seed of the whole corpus.
        seconds: Shortest and longest clip, in seconds.
        on_clip: Called with the number of clips written so far.

    Returns:
        The files: `00000_voice-fr.wav` and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shares = [share for share, _ in _GROUPS.values()]
    paths = []
    for number in range(num_clips):
        rng = make_generator("corpus", seed, number)
        group = str(rng.choice(list(_GROUPS), p=shares))
        kind = f"{group}-{rng.choice(_GROUPS[group][1])}"
        length = float(rng.uniform(*seconds))
        path = folder / f"{number:05d}_{kind}.wav"
        write_wav(path, make_clip(kind, seed=int(rng.integers(2**31)), seconds=length))
        paths.append(path)
        if on_clip is not None:
            on_clip(number + 1)
    return paths


def write_wav(path: Path, waveform: Waveform) -> None:
    """Write mono 16-bit wav at 16 kHz."""
    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    path.unlink(missing_ok=True)
    with path.open("xb") as file:  # `x`: never write through a link
        file.write(encoded.getvalue())
