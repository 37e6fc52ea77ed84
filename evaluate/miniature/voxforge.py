"""Miniature of VoxForge: six languages, each of speakers with one or two archives."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from byola_rq.synthesis.languages import LANGUAGES
from byola_rq.synthesis.primitives import Waveform, make_generator, make_seed
from byola_rq.synthesis.recording import draw_scene, record
from byola_rq.synthesis.voices import Speaker, draw_speaker, say_sentences
from evaluate.miniature.plans import LEVEL_DB, SetFile, SetPlan, scale

_NUM_SPEAKERS = 24  # per language
_NUM_CLIPS = 2  # per archive
_SECONDS = 0.8  # about 5 s in the real set
_MEN_BELOW = 1.08  # scale of the vocal tract
_SYLLABLES = ("ba", "der", "el", "fra", "gus", "ill", "ko", "la", "mo", "nik", "ro", "ta", "vi")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class _Archive(NamedTuple):
    name: str  # <user>-<date>-<id>
    user: str
    person: int
    number: int  # among the language's archives


def plan_voxforge(seed: int, size: float) -> SetPlan:
    """Plan `voxforge/<language>/<user>-<date>-<id>/`, `wav` or `flac` and `etc`, or its `.tgz`."""
    sounds: list[SetFile] = []
    texts: dict[str, str] = {}
    packed = set()
    for language in LANGUAGES:
        for archive in _draw_archives(language, seed, size):
            folder = f"{language}/{archive.name}"
            suffix = "flac" if archive.number % 5 == 2 else "wav"
            if archive.number % 4 == 3:
                packed.add(folder)
            prompts = []
            for clip in range(scale(_NUM_CLIPS, size)):
                utterance = f"{language}-{_NUM_CLIPS * archive.number + clip:04d}"
                make = partial(_speak, seed, language, archive, clip)
                sounds.append(SetFile(f"{folder}/{suffix}/{utterance}.{suffix}", make))
                prompts.append(f"{archive.name}/mfc/{utterance} INVENTED SENTENCE\n")
            texts[f"{folder}/etc/PROMPTS"] = "".join(prompts)
            texts[f"{folder}/etc/README"] = _describe(archive.user, language, suffix)
    return SetPlan("voxforge", tuple(sounds), texts, frozenset(packed))


def _draw_archives(language: str, seed: int, size: float) -> Iterator[_Archive]:
    """Draw archives: a third of the speakers are anonymous, some have two archives."""
    number = 0
    for person in range(scale(_NUM_SPEAKERS, size, at_least=7)):
        rng = make_generator("miniature", "voxforge", seed, language, person)
        name = "".join(rng.choice(_SYLLABLES, 2).tolist())
        user = "anonymous" if person % 3 == 2 else f"{name}{person}"
        for _ in range(2 if person % 12 == 1 else 1):
            date = f"{rng.integers(2007, 2013)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
            letters = "".join(rng.choice(list(_LETTERS), 3).tolist())
            yield _Archive(f"{user}-{date}-{letters}", user, person, number)
            number += 1


def _speak(seed: int, language: str, archive: _Archive, clip: int) -> Waveform:
    """Make a spoken clip; an archive has one room and one microphone, and no sentence repeats."""
    speaker = _draw_contributor(seed, language, archive.person)
    place = make_seed("miniature", "voxforge", seed, language, archive.name)
    moment = make_seed(place, clip)
    waveform = say_sentences(language, speaker, seed=moment, seconds=_SECONDS)
    scene = draw_scene(place, snr_db=(20, 40), ripple_db=1.0, level_db=LEVEL_DB)
    near = replace(scene.room, wetness=0.3 * scene.room.wetness)  # most use a headset
    return record(waveform, replace(scene, room=near), seed=moment)


def _draw_contributor(seed: int, language: str, person: int) -> Speaker:
    """Draw a speaker; most are men, as in the real set."""
    people = (
        draw_speaker(make_seed("miniature", "voxforge", seed, language, person, attempt))
        for attempt in itertools.count()
    )
    return next(who for who in people if who.tract_scale < _MEN_BELOW or person % 12 == 11)


def _describe(user: str, language: str, suffix: str) -> str:
    return (
        f"User Name:{user}\n\nSpeaker Characteristics:\n\nGender:Please Select\n"
        f"Age Range:Please Select\nLanguage:{language.upper()}\n\nFile Info:\n\n"
        f"File type:{suffix}\nSampling Rate:16000\nSample rate format:16\nNumber of channels:1\n"
    )
