"""Miniature of Speech Commands v0.02: 35 words, six noises and the separate test set."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from byola_rq.synthesis.languages import WORDS
from byola_rq.synthesis.primitives import Waveform, make_generator, make_seed
from byola_rq.synthesis.recording import draw_scene, make_background, record
from byola_rq.synthesis.soundscapes import EVENTS, make_event
from byola_rq.synthesis.voices import draw_speaker, say_word
from evaluate.miniature.plans import LEVEL_DB, SetFile, SetPlan, scale

_COMMANDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_NOISES = {  # the publisher's name -> synthetic sound
    "doing_the_dishes": "typing",
    "dude_miaowing": "children_playing",
    "exercise_bike": "engine_idling",
    "pink_noise": "pink",
    "running_tap": "rain",
    "white_noise": "white",
}
_NUM_SPEAKERS = {"train": 24, "validation": 5, "testing": 10}
# Clips of each command and of each other word; the real set has up to twice as many of a command.
_NUM_CLIPS = {"train": (16, 4), "validation": (4, 1), "testing": (6, 3)}
_NUM_SILENCES = 4
_SECONDS, _NOISE_SECONDS = 0.5, 3.0  # 1 s and 60 to 95 s in the real set
_README = (
    "A miniature of the Speech Commands data set v0.02: synthetic sounds, named and arranged as "
    "the publisher's.\n"
)
_LICENSE = "The sounds are made by a program; do with them as you like.\n"


class _Utterance(NamedTuple):
    word: str
    part: str
    file_name: str  # <speaker>_nohash_<take>.wav
    sound: SetFile


def plan_commands(seed: int, size: float) -> SetPlan:
    """Plan `speech_commands_v0.02/`: a folder for each word, the lists and the noises."""
    lists: dict[str, list[str]] = {part: [] for part in _NUM_CLIPS}
    sounds = []
    for utterance in _draw_utterances(seed, size):
        lists[utterance.part].append(f"{utterance.sound.name}\n")
        sounds.append(utterance.sound)
    for name in _NOISES:
        make = partial(_make_noise, seed, name, 0, _NOISE_SECONDS)
        sounds.append(SetFile(f"_background_noise_/{name}.wav", make))
    texts = {
        "README.md": _README,
        "LICENSE": _LICENSE,
        "_background_noise_/README.md": "Noises to cut silence from.\n",
        "validation_list.txt": "".join(sorted(lists["validation"])),
        "testing_list.txt": "".join(sorted(lists["testing"])),
    }
    return SetPlan("speech_commands_v0.02", tuple(sounds), texts)


def plan_commands_test(seed: int, size: float) -> SetPlan:
    """Plan `speech_commands_test_set_v0.02/`: ten words, `_unknown_` and `_silence_`.

    As in the real one, the words are the test clips of `plan_commands` once more, and the names of
    unknown words end in `.wav.wav`.
    """
    tested = [u for u in _draw_utterances(seed, size) if u.part == "testing"]
    sounds = [utterance.sound for utterance in tested if utterance.word in _COMMANDS]
    others = [utterance for utterance in tested if utterance.word not in _COMMANDS]
    # From word to word, and about as many as there are of one command.
    for utterance in others[:: len(others) * len(_COMMANDS) // len(sounds)]:
        name = f"_unknown_/{utterance.word}_{utterance.file_name}.wav"
        sounds.append(replace(utterance.sound, name=name))
    for number in range(scale(_NUM_SILENCES, size)):
        name = list(_NOISES)[number % len(_NOISES)]
        make = partial(_make_noise, seed, name, 1 + number, 1.0)
        sounds.append(SetFile(f"_silence_/{101 + 17 * number}.wav", make))
    texts = {"README.md": _README, "LICENSE": _LICENSE}
    return SetPlan("speech_commands_test_set_v0.02", tuple(sounds), texts)


def _draw_utterances(seed: int, size: float) -> Iterator[_Utterance]:
    """Draw speakers and takes of every word; a speaker is in one part only, as in the real set."""
    for word in WORDS:
        for part, (of_command, of_other) in _NUM_CLIPS.items():
            rng = make_generator("miniature", "commands", seed, word, part)
            count = scale(of_command if word in _COMMANDS else of_other, size)
            people = rng.permutation(_NUM_SPEAKERS[part])[:count].tolist()
            if count > 2:  # one speaker says the word twice
                people[-1] = people[0]
            for place, person in enumerate(people):
                take = people[:place].count(person)
                who = make_seed("miniature", "commands", seed, part, person)
                file_name = f"{who:08x}_nohash_{take}.wav"
                sound = SetFile(f"{word}/{file_name}", partial(_say, word, who, take))
                yield _Utterance(word, part, file_name, sound)


def _say(word: str, who: int, take: int) -> Waveform:
    """Make a spoken word; each speaker has one room and one microphone."""
    moment = make_seed(who, word, take)
    waveform = say_word(word, draw_speaker(who), seed=moment, seconds=_SECONDS)
    return record(waveform, draw_scene(who, snr_db=(10, 35), level_db=LEVEL_DB), seed=moment)


def _make_noise(seed: int, name: str, cut: int, seconds: float) -> Waveform:
    """Make a cut of one of the noises; two cuts share only the scene."""
    source = make_seed("miniature", "commands", seed, name)
    if _NOISES[name] in EVENTS:
        return make_event(_NOISES[name], seed=source, seconds=seconds, slice_number=cut)
    return make_background(_NOISES[name], seed=make_seed(source, cut), seconds=seconds)
