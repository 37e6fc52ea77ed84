"""Published sets in small, as their publishers ship them: the names and lists are what matters."""

import json
import zlib
from pathlib import Path

from evaluate.publishers.speech_commands import COMMANDS, OTHER_WORDS
from tests.evaluate.conftest import write_csv, write_sound

Note = tuple[str, str, str]  # name, family, instrument

NOTES: dict[str, list[Note]] = {
    "train": [
        (f"{family}_acoustic_{number:03d}-060-{velocity:03d}", family, f"{family}_{number:03d}")
        for family in ("bass", "organ", "synth_lead")
        for number in (0, 1)
        for velocity in (50, 100)
    ],
    "valid": [
        (f"{family}_acoustic_002-060-{velocity:03d}", family, f"{family}_002")
        for family in ("bass", "organ")
        for velocity in (50, 100)
    ],
    "test": [
        (f"{family}_acoustic_{number:03d}-060-025", family, f"{family}_{number:03d}")
        for family in ("bass", "organ")
        for number in (2, 3)
    ],
}
URBAN_HEADER = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
URBAN_CLASSES = ("air_conditioner", "dog_bark")
UTTERANCES = {"train": 2, "valid": 1, "test": 1}  # of each word, each by a speaker of that part
NOISE_SECONDS = {"pink_noise.wav": 2.0, "running_tap.wav": 1.7}


def write_tone(path: Path, seconds: float = 0.02) -> None:
    """A short tone of its own, so that no two files are the same."""
    write_sound(path, 440.0, seconds, seed=zlib.crc32(str(path).encode()))


def write_nsynth(root: Path, notes: dict[str, list[Note]] = NOTES) -> Path:
    for part, rows in notes.items():
        folder = root / f"nsynth-{part}"
        for name, _, _ in rows:
            write_tone(folder / "audio" / f"{name}.wav")
        examples = {
            name: {"note_str": name, "instrument_family_str": family, "instrument_str": instrument}
            for name, family, instrument in rows
        }
        (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    return root


def urban_rows() -> list[list[str]]:
    """Return rows in which each fold has two clips of one recording of each class."""
    return [
        [f"{fsid}-{number}-0-{clip}.wav", fsid, "0.0", "4.0", "1", str(fold), str(number), label]
        for fold in range(1, 11)
        for number, label in enumerate(URBAN_CLASSES)
        for fsid in [f"{100 * fold + number}"]
        for clip in (0, 1)
    ]


def write_urbansound(root: Path, rows: list[list[str]] | None = None) -> Path:
    rows = urban_rows() if rows is None else rows
    for row in rows:
        write_tone(root / f"audio/fold{row[5]}" / row[0])
    write_csv(root / "metadata/UrbanSound8K.csv", map(tuple, rows), URBAN_HEADER)
    return root


def voxceleb_names() -> list[tuple[str, str]]:
    """Number of the part and file: 3 speakers of 3 videos, the last two of which are held out."""
    return [
        (number, f"id1000{speaker}/{'-' * speaker}video{number}/{clip:05d}.wav")
        for speaker in (1, 2, 3)
        for number in ("1", "2", "3")
        for clip in (1, 2)
    ]


def write_voxceleb(root: Path, base: str = "wav", list_folder: str = ".") -> Path:
    lines = voxceleb_names()
    for _, name in lines:
        write_tone(root / base / name)
    (root / list_folder).mkdir(parents=True, exist_ok=True)
    text = "".join(f"{number} {name}\n" for number, name in lines)
    (root / list_folder / "iden_split.txt").write_text(text)
    return root


def utterances(word: str) -> list[tuple[str, str]]:
    """Part and file of every utterance of a word."""
    return [
        (part, f"{word}/{part.encode().hex()[:7]}{speaker}_nohash_0.wav")
        for part, count in UTTERANCES.items()
        for speaker in range(count)
    ]


def write_speech_commands(root: Path) -> Path:
    lists: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for word in (*COMMANDS, *OTHER_WORDS):
        for part, name in utterances(word):
            write_tone(root / name)
            lists[part].append(name)
    (root / "validation_list.txt").write_text("\n".join(lists["valid"]) + "\n")
    (root / "testing_list.txt").write_text("\n".join(lists["test"]) + "\n")
    for name, seconds in NOISE_SECONDS.items():
        write_tone(root / "_background_noise_" / name, seconds)
    (root / "_background_noise_/README.md").write_text("noises")
    return root


def write_test_archive(root: Path) -> Path:
    """Write the clip of the testing list of each command, two unknown words, three silences."""
    for word in COMMANDS:
        for part, name in utterances(word):
            if part == "test":
                write_tone(root / name)
    for word in OTHER_WORDS[:2]:
        speaker = utterances(word)[-1][1].partition("/")[2]
        write_tone(root / f"_unknown_/{word}_{speaker}.wav")
    for number in (7, 104, 1035):
        write_tone(root / f"_silence_/{number}.wav")
    return root
