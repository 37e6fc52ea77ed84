"""Miniature of VoxCeleb1: speakers, tested on other videos and words than in training."""

import string
from functools import partial

from byola_rq.synthesis.primitives import Waveform, make_generator, make_seed
from byola_rq.synthesis.recording import draw_scene, record
from byola_rq.synthesis.voices import draw_speaker, say_sentences
from evaluate.miniature.plans import LEVEL_DB, SetFile, SetPlan, scale

_NUM_SPEAKERS = 10
_FIRST_ID, _ID_STEP = 10_001, 117
_NUM_CLIPS = {"1": (2, 2, 2), "2": (2,), "3": (2, 2)}  # per video in train, valid and test
_SECONDS = (1.0, 1.4)  # 4 to 145 s in the real set
_VIDEO_CHARACTERS = string.ascii_letters + string.digits + "-_"


def plan_voxceleb1(seed: int, size: float) -> SetPlan:
    """Plan `VoxCeleb1/iden_split.txt` and `wav/<speaker>/<video>/<number>.wav`."""
    sounds, lines = [], []
    for person in range(scale(_NUM_SPEAKERS, size, at_least=4)):
        speaker_id = f"id{_FIRST_ID + _ID_STEP * person}"
        videos = [(part, count) for part, counts in _NUM_CLIPS.items() for count in counts]
        for number, (part, num_clips) in enumerate(videos):
            rng = make_generator("miniature", "voxceleb1", seed, person, number)
            # YouTube ids may begin with a hyphen; some here always do.
            first = "-" if number == person else ""
            letters = rng.choice(list(_VIDEO_CHARACTERS), 11 - len(first))
            video = first + "".join(letters.tolist())
            for clip in range(1, 1 + scale(num_clips, size)):
                name = f"{speaker_id}/{video}/{clip:05d}.wav"
                seconds = float(rng.uniform(*_SECONDS))
                sounds.append(
                    SetFile(f"wav/{name}", partial(_speak, seed, person, number, clip, seconds))
                )
                lines.append(f"{part} {name}\n")
    lines.sort(key=lambda line: line.split()[1])
    return SetPlan("VoxCeleb1", tuple(sounds), {"iden_split.txt": "".join(lines)})


def _speak(seed: int, person: int, video: int, clip: int, seconds: float) -> Waveform:
    """Make a spoken clip; a video has one room and one microphone, and no sentence repeats."""
    speaker = draw_speaker(make_seed("miniature", "voxceleb1", seed, person))
    place = make_seed("miniature", "voxceleb1", seed, person, video)
    moment = make_seed(place, clip)
    waveform = say_sentences("en", speaker, seed=moment, seconds=seconds)
    return record(waveform, draw_scene(place, snr_db=(5, 25), level_db=LEVEL_DB), seed=moment)
