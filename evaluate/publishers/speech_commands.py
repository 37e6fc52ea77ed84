"""Speech Commands V2: 35 spoken words, or 12 classes: ten commands, other words and silence."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from byola_rq.audio.io import SAMPLE_RATE, inspect_audio
from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import list_audio, read_lines
from evaluate.tasks.task import Clip, Task, TaskError, find_overlaps

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_OTHER_WORDS = """
    bed bird cat dog eight five four happy house marvin nine one seven sheila six three tree two
    wow zero backward follow forward learn visual
"""
OTHER_WORDS = tuple(_OTHER_WORDS.split())
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"

_WORDS = frozenset((*COMMANDS, *OTHER_WORDS))
_NOT_IN_VERSION_1 = frozenset(("backward", "follow", "forward", "learn", "visual"))
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
_VALID_NOISE = "running_tap.wav"
_WINDOW, _STEP = SAMPLE_RATE, SAMPLE_RATE // 2  # length and hop of silence clips, in samples


def divide_words(
    names: Iterable[str], lists: Mapping[str, Iterable[str]]
) -> Iterator[tuple[str, str]]:
    """Yield each file with its part: listed files in their list's part, all others in train.

    Args:
        names: Files on disk, `word/file.wav`.
        lists: Listed files of `valid` and `test`, on disk or not.
    """
    listed = {part: list(files) for part, files in lists.items()}
    for part, files in listed.items():
        yield from ((name, part) for name in files)
    taken = set().union(*listed.values())
    yield from ((name, "train") for name in names if name not in taken)


def list_windows(num_samples: int) -> range:
    """Return the first samples of the 1 s windows of a noise recording, at 16 kHz."""
    return range(0, num_samples - _WINDOW, _STEP)


def speaker_of(name: str) -> str:
    """Return the speaker in a file's name; empty if there is none.

    The file may have the word before the speaker, as in the test archive's
    `_unknown_/bed_3ff840aa_nohash_0.wav.wav`.
    """
    before, has_speaker, _ = name.rpartition("/")[2].partition("_nohash_")
    return before.rpartition("_")[2] if has_speaker else ""


def make_silence(folder: Path, num_samples: Mapping[str, int]) -> Iterator[Clip]:
    """Yield windows of the noise recordings as clips; lengths are in samples at 16 kHz."""
    for file, length in num_samples.items():
        name = f"{NOISE}/{file}"
        for start in list_windows(length):
            seconds = start / SAMPLE_RATE
            yield Clip(
                path=folder / name,
                file_name=f"{name}@{seconds:g}",
                label=SILENCE,
                part="valid" if file == _VALID_NOISE else "train",
                start_seconds=seconds,
                group=name,
            )


def is_test_archive(folder: Path) -> bool:
    """Return True if a folder is the separate archive of test clips of the 12-class task."""
    has_classes = all((folder / name).is_dir() for name in (SILENCE, UNKNOWN))
    return has_classes and not any((folder / name).exists() for name in _LISTS.values())


def _is_root(folder: Path) -> bool:
    has_mark = (folder / NOISE).is_dir() or any(
        (folder / name).is_file() for name in _LISTS.values()
    )
    return has_mark and any((folder / word).is_dir() for word in COMMANDS)


def _read_35(copy: Copy) -> Task:
    names = _list_words(copy.folder)
    clips = _make_words(copy.folder, divide_words(names, _read_lists(copy.folder)))
    return make_task(
        LAYOUT_35,
        copy.folder,
        clips,
        names,
        split_rule="publisher's lists",
        problems=find_overlaps(clips),
    )


def _read_12(copy: Copy) -> Task:
    tested = _read_test_archive(_the_test_archive(copy))
    clips, found = _read_12_classes(copy.folder, ("train", "valid"))
    return make_task(
        LAYOUT_12,
        copy.folder,
        clips + tested,
        found | {clip.file_name for clip in tested},
        split_rule="publisher's lists and test archive",
        problems=find_overlaps(clips + tested),
    )


def _read_12_lists(copy: Copy) -> Task:
    clips, found = _read_12_classes(copy.folder, ("train", "valid", "test"))
    return make_task(
        LAYOUT_12_LISTS,
        copy.folder,
        clips,
        found,
        split_rule="publisher's lists",
        notes=[
            f"tested on the testing list, not on the publisher's test archive: no {SILENCE} there, "
            "and scores are not those of spcv2_12"
        ],
        problems=find_overlaps(clips),
    )


def _read_12_classes(folder: Path, parts: Collection[str]) -> tuple[list[Clip], set[str]]:
    """List the main folder's clips in `parts`, and the names of those on disk."""
    names = _list_words(folder)
    divided = divide_words(names, _read_lists(folder))
    words = _make_words(folder, ((name, part) for name, part in divided if part in parts))
    words = [clip if clip.label in COMMANDS else replace(clip, label=UNKNOWN) for clip in words]
    silence = list(make_silence(folder, _measure_noise(folder)))
    # Files of other parts are listed, so they must not be reported as unlisted.
    found = names & {clip.file_name for clip in words}
    return words + silence, found | {clip.file_name for clip in silence}


def _read_lists(folder: Path) -> dict[str, list[str]]:
    for name in _LISTS.values():
        if not (folder / name).is_file():
            raise half_unpacked(LAYOUT_35, folder, f"{name} is not there", value=name)
    return {part: read_lines(folder / name) for part, name in _LISTS.items()}


def _list_words(folder: Path) -> set[str]:
    """List the files of all words on disk, `word/file.wav`."""
    present = {word for word in _WORDS if (folder / word).is_dir()}
    if present == _WORDS - _NOT_IN_VERSION_1:
        raise TaskError(
            f"{folder}: Speech Commands must be version 0.02, of 35 words; got the 30 words of "
            "version 0.01",
            code="foreign",
            path=folder,
            value="0.01",
        )
    return {name for word in present for name in list_audio(folder / word, f"{word}/")}


def _make_words(folder: Path, divided: Iterable[tuple[str, str]]) -> list[Clip]:
    return [
        Clip(
            path=folder / name,
            file_name=name,
            label=name.partition("/")[0],
            part=part,
            group=speaker_of(name),
        )
        for name, part in divided
    ]


def _measure_noise(folder: Path) -> dict[str, int]:
    """Measure the length of every noise recording, in samples at 16 kHz."""
    files = sorted(list_audio(folder / NOISE))
    if _VALID_NOISE not in files or len(files) < 2:
        lost = _VALID_NOISE if files and _VALID_NOISE not in files else NOISE
        what = lost if lost == _VALID_NOISE else "noise to train on"
        raise half_unpacked(LAYOUT_12, folder, f"{NOISE} has no {what}", value=lost)
    return {
        file: inspect_audio(folder / NOISE / file).num_samples_at(SAMPLE_RATE) for file in files
    }


def _the_test_archive(copy: Copy) -> Path:
    if len(copy.partners) > 1:
        raise TaskError(
            f"{copy.folder}: the test archive must be unique; found "
            f"{' and '.join(map(str, copy.partners))}. Remove one",
            code="twice",
            path=copy.folder,
            value=copy.partners,
        )
    if not copy.partners:
        raise TaskError(
            f"{copy.folder}: {LAYOUT_12.name} needs the publisher's separate test archive, "
            f"speech_commands_test_set_v0.02, unpacked under the data root too; without it there "
            f"is {LAYOUT_12_LISTS.name}",
            code="missing",
            path=copy.folder,
            value="speech_commands_test_set_v0.02",
        )
    return copy.partners[0]


def _read_test_archive(folder: Path) -> list[Clip]:
    clips = []
    for label in (*COMMANDS, UNKNOWN, SILENCE):
        names = sorted(list_audio(folder / label, f"{label}/"))
        if not names:
            what = f"{label}/ of the test archive has no clips"
            raise half_unpacked(LAYOUT_12, folder, what, value=label)
        clips += [
            Clip(
                path=folder / name,
                file_name=f"test_archive/{name}",
                label=label,
                part="test",
                group=speaker_of(name),
            )
            for name in names
        ]
    return clips


_GROUP_12 = "speaker or noise"
_MAIN_FOLDER = f"{', '.join(_LISTS.values())}, {NOISE} and a folder for each word"

LAYOUT_35 = Layout(
    name="spcv2",
    title="Speech Commands V2, 35 words",
    unit_seconds=1.0,
    num_classes=35,
    counts={"train": 84_843, "valid": 9_981, "test": 11_005},
    holds=_MAIN_FOLDER,
    is_root=_is_root,
    read=_read_35,
    group="speaker",
    own_folders=(*_WORDS, NOISE),
)
LAYOUT_12 = replace(
    LAYOUT_35,
    name="spcv2_12",
    title="Speech Commands V2, 12 classes",
    num_classes=12,
    counts={"train": 85_511, "valid": 10_102, "test": 4_890},
    holds=f"{_MAIN_FOLDER}, and anywhere the test archive, a folder with {SILENCE} and {UNKNOWN}",
    read=_read_12,
    group=_GROUP_12,
    is_partner=is_test_archive,
)
LAYOUT_12_LISTS = replace(
    LAYOUT_35,
    name="spcv2_12_lists",
    title="Speech Commands V2, 12 classes, without the test archive",
    num_classes=12,
    counts={"train": 85_511, "valid": 10_102, "test": 11_005},
    read=_read_12_lists,
    group=_GROUP_12,
    stands_in_for=LAYOUT_12.name,
)
