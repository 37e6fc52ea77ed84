"""Two thousand small damaged, odd and misnamed files: all commands agree on which are readable."""

import csv
import io
import os
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from byola_rq import Embedder
from byola_rq.audio.encoded import reason_of
from byola_rq.audio.io import AUDIO_SUFFIXES, inspect_audio, read_audio
from byola_rq.cli.app import main
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.errors import AudioError
from byola_rq.listen.segments import read_segment
from byola_rq.packing.decode import ClipJob, ClipRules, decode_clip
from byola_rq.sources.clip_source import ClipSource, Listing
from byola_rq.sources.listing import list_sources
from evaluate.__main__ import app as evaluate
from evaluate.inspection import check_file
from evaluate.log_mels import read_clip
from evaluate.tasks.task import Clip
from tests import multimedia

NUM_FILES = 2_000
RATE = 16_000

FORMS: list[tuple[str, dict[str, str]]] = [
    (".wav", {"format": "WAV", "subtype": "PCM_16"}),
    (".wav", {"format": "WAV", "subtype": "FLOAT"}),
    (".wav", {"format": "RF64", "subtype": "PCM_24"}),
    (".wav", {"format": "WAV", "subtype": "IMA_ADPCM"}),
    (".aiff", {"format": "AIFF", "subtype": "PCM_16"}),
    (".au", {"format": "AU", "subtype": "ULAW"}),
    (".caf", {"format": "CAF", "subtype": "PCM_16"}),
    (".w64", {"format": "W64", "subtype": "PCM_16"}),
    (".sph", {"format": "NIST", "subtype": "PCM_16"}),
    (".flac", {"format": "FLAC", "subtype": "PCM_16"}),
    (".ogg", {"format": "OGG", "subtype": "VORBIS"}),
    (".opus", {"format": "OGG", "subtype": "OPUS"}),
    (".mp3", {"format": "MP3"}),
]
OTHER_SUFFIXES = [".wma", ".txt", ".dat", "", ".jpg"]
STEMS = ["{}", "2024-{}", "00{}", "a #{}", "b: {}", "[{}]", "é{}", "é{}", "\udce9{}", "x {}.y"]


def encode(random: np.random.Generator, form: dict[str, str]) -> bytes:
    rate = int(random.choice([8_000, 16_000, 24_000, 48_000]))
    sound = random.normal(0, 0.1, (int(random.uniform(0.2, 0.5) * rate), random.integers(1, 3)))
    file = io.BytesIO()
    soundfile.write(file, sound, rate, **form)
    return file.getvalue()


def flip(random: np.random.Generator, data: bytes, most: int) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, min(most, len(data)), 4):
        changed[place] = random.integers(0, 256)
    return bytes(changed)


def hole(random: np.random.Generator, data: bytes) -> bytes:
    first = int(random.integers(0, len(data)))
    length = int(random.integers(1, 1_500))
    return data[:first] + random.bytes(length) + data[first + length :]


DAMAGES: list[Callable[[np.random.Generator, bytes], bytes]] = [
    lambda _, data: data,
    lambda random, data: data[: int(random.integers(0, len(data)))],
    lambda random, data: flip(random, data, 64),
    lambda random, data: flip(random, data, len(data)),
    hole,
    lambda _, data: data + data,
    lambda random, data: data + random.bytes(int(random.integers(1, 9_000))),
    lambda random, data: random.bytes(int(random.integers(1, 300))) + data,
    lambda _, data: b"ID3\3\0\0\0\0\2\1" + bytes(257) + data,
    lambda _, data: data.replace(b"data", b"data\0\0\0\0", 1)[: len(data)],
    lambda _, data: bytes(len(data)),
    lambda random, data: random.bytes(len(data)),
    lambda _, __: b"",
]


def write_files(folder: Path, seed: int) -> tuple[int, int]:
    """Write the files, and macOS' sidecars beside some; gives how many of each."""
    random = np.random.default_rng(seed)
    bases = [(suffix, encode(random, form)) for suffix, form in FORMS for _ in range(6)]
    for name, (_, _, suffix) in multimedia.FORMS.items():
        sound = random.normal(0, 0.1, (int(random.integers(10_000, 24_000)), 1))
        bases += 3 * [(suffix, multimedia.encode(name, sound, 48_000))]
    suffixes = sorted(AUDIO_SUFFIXES)
    num_sidecars = 0
    for number in range(NUM_FILES):
        suffix, data = bases[random.integers(len(bases))]
        data = DAMAGES[random.integers(len(DAMAGES))](random, data)
        kind = random.random()
        if kind < 0.15:
            suffix = suffixes[random.integers(len(suffixes))]
        elif kind < 0.25:
            suffix = OTHER_SUFFIXES[random.integers(len(OTHER_SUFFIXES))]
        name = STEMS[random.integers(len(STEMS))].format(number) + suffix
        place = folder / f"{number % 7}"
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(data)
        if random.random() < 0.1:
            (place / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0" + bytes(300))
            num_sidecars += 1
    return NUM_FILES, num_sidecars


def count_unread(listing: Listing) -> int:
    (note,) = [note for note in listing.notes if ": not read: " in note]
    return sum(map(int, re.findall(r"(\d+) (?:\.|\(|hidden|others)", note.partition("read: ")[2])))


Verdict = tuple[str | None, str]


def verdict(read: Callable[[], object], *names: object) -> Verdict:
    """Code and reason of a refusal; nothing where the sound was read, if it is long enough."""
    refusal = None
    try:
        read()
    except AudioError as error:
        refusal = error
    if refusal is None or refusal.code == "too-short":  # to embed: of what it is there is no doubt
        return None, ""
    assert refusal.code
    assert "\n" not in str(refusal)
    # Where nothing is left after resampling, each says so of what it was to make.
    return refusal.code, "" if refusal.code == "empty" else reason_of(refusal, *names)


def verdicts(clip: ClipSource, embedder: Embedder) -> dict[str, Verdict]:
    """Return the verdict of each command that reads a whole clip."""
    path = clip.path
    readers: dict[str, Callable[[], object]] = {
        "prepare": lambda: decode_clip(ClipJob(clip), ClipRules()),
        "pretrain, embed, views": lambda: measure_clips([clip], RATE).read(0),
        "read_audio": lambda: read_audio(path, RATE),
        "embed_files": lambda: embedder.embed_files([path]),
        "listen": lambda: read_segment(path, RATE, 15_200),
        "evaluate": lambda: read_clip(Clip(path, path.name, "a", "train"), RATE, 60 * RATE),
    }
    said = {name: verdict(read, clip, path) for name, read in readers.items()}
    # Measuring tells the user what to do as well.
    name = "pretrain, embed, views"
    said[name] = said[name][0], said[name][1].removesuffix("; remove it from data.source")
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def test_all_commands_agree_on_which_files_are_readable(folder: Path) -> None:
    num_files, num_sidecars = write_files(folder, seed=17)
    listing = list_sources([folder])
    assert num_sidecars > 100
    assert not listing.missing
    num_listed = len(listing.clips) + len(listing.damaged) + len(listing.duplicates)
    assert num_listed + count_unread(listing) == num_files

    embedder = Embedder.untrained(dim=16)
    codes: Counter[str | None] = Counter()
    for clip in listing.clips:
        said = verdicts(clip, embedder)
        assert len(set(said.values())) == 1, (str(clip), said)
        code, reason = said["prepare"]
        codes[code] += 1
        # Opening says no more than reading, and never another thing.
        opened = verdict(lambda path=clip.path: inspect_audio(path), clip.path)
        assert opened in {(None, ""), (code, reason)}, (str(clip), opened, said)
        looked = check_file([Clip(clip.path, clip.path.name, "a", "train")], with_digest=False)
        assert bool(looked.fault) == (opened[0] is not None)
    # That all are refused, or none, would be agreement too.
    assert codes[None] > 500
    assert {"cut", "damaged", "unsupported", "empty", "unreadable"} <= codes.keys()


def test_a_tar_of_them_is_read_as_the_folder(folder: Path, tmp_path: Path) -> None:
    """After the test above, which writes them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(tmp_path / "all.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            tar.add(path, os.path.relpath(path, folder))
    listing, of_folder = list_sources([tmp_path / "all.tar"]), list_sources([folder])
    assert count_unread(listing) == count_unread(of_folder)
    assert [clip.clip_id.removeprefix("all/") for clip in listing.clips] == [
        clip.clip_id for clip in of_folder.clips
    ]
    for member, clip in list(zip(listing.clips, of_folder.clips, strict=True))[::3]:
        of_each = [
            verdict(lambda each=each: decode_clip(ClipJob(each), ClipRules()))
            for each in (member, clip)
        ]
        assert of_each[0] == of_each[1], str(clip)


@pytest.mark.parametrize("is_tar", [False, True])
def test_every_command_names_what_it_does_not_read(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_tar: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "s"
    source.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 0.1, 2 * RATE)
        soundfile.write(source / f"{number}.wav", noise, RATE)
    for name in ("3.wma", "4.wma", "5.xyz", "._6.wav"):
        (source / name).write_bytes(b"0&\xb2u\x8ef\xcf\x11" + bytes(500))
    if is_tar:
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            tar.add(source, arcname=".")
        source = tmp_path / "s.tar"
    Embedder.untrained(dim=16).save(tmp_path / "m.safetensors")
    small = ["encoder.dim=64", "byol.hidden_dim=64", "train.max_steps=1", "train.batch_size=2"]
    for arguments in (
        ["embed", source, "-o", "out", "--model", "m.safetensors", "--device", "cpu"],
        ["prepare", source, "packed"],
        ["pretrain", f"data.source={source}", "run.dir=r", "data.workers=0", *small],
    ):
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        out, err = capfd.readouterr()
        assert not left.value.code, err
        assert f"{source}: not read: 2 .wma, 1 .xyz; " in out + err, arguments[0]


PLAIN = {"WAV": ".wav", "WAVEX": ".wav", "AIFF": ".aiff", "AU": ".au", "CAF": ".caf", "W64": ".w64"}


PCM_CHUNK = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE // 2, RATE, 2, 16)


def write_refused(folder: Path) -> list[Path]:
    """A file of each codec that is not decoded, in containers that are, and some in disguise."""
    folder.mkdir()
    noise = np.random.default_rng(2).uniform(-0.3, 0.3, 2 * RATE)
    for form, suffix in PLAIN.items():
        for subtype in soundfile.available_subtypes(form):
            path = folder / f"{form}-{subtype}{suffix}"
            not_written = (form, subtype) in {("AIFF", "DWVW_12"), ("WAV", "MPEG_LAYER_III")}
            if subtype.startswith("PCM_") or subtype in {"FLOAT", "DOUBLE", "ALAW", "ULAW"}:
                continue
            if not_written or not soundfile.check_format(form, subtype):
                continue
            soundfile.write(path, noise, RATE // 2, format=form, subtype=subtype)
            if form == "AIFF":
                disguised = path.read_bytes().replace(b"AIFC", b"AIFF", 1)
                path.with_stem(f"disguised-{subtype}").write_bytes(disguised)
            if form == "WAV":  # a chunk that says PCM before the one that says the codec
                data = path.read_bytes()
                path.with_stem(f"twice-{subtype}").write_bytes(data[:12] + PCM_CHUNK + data[12:])
    return sorted(folder.iterdir())


def test_refused_codecs_are_refused_by_every_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_refused(tmp_path / "s")
    assert len(files) >= 30
    embedder = Embedder.untrained(dim=16)
    for path in files:
        said = verdicts(ClipSource(path.name, file=str(path)), embedder)
        assert len(set(said.values())) == 1, (path, said)
        # A decoder finds two such chunks wrong, before it is asked which codec it found.
        assert said["prepare"][0] == ("damaged" if "twice" in path.stem else "unsupported"), path
        looked = check_file([Clip(path, path.name, "a", "train")], with_digest=False)
        assert looked.fault
    monkeypatch.chdir(tmp_path)
    embedder.save(tmp_path / "m.safetensors")
    rows = [f"s/{path.name},{number % 2},{number % 3 % 2}" for number, path in enumerate(files)]
    (tmp_path / "set.csv").write_text("\n".join(["file_name,label,fold", *rows]))
    small = ["encoder.dim=64", "byol.hidden_dim=64", "train.max_steps=1", "data.workers=0"]
    model = ["--model", "m.safetensors"]
    commands = [
        ["prepare", "s", "packed"],
        ["embed", "s", "-o", "out", *model, "--device", "cpu"],
        ["pretrain", "data.source=s", "run.dir=r", *small],
        ["listen", f"s/{files[0].name}", "-o", "page.html", *model],
        ["views", f"s/{files[0].name}", "v.png"],
    ]
    for arguments in commands:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        _, err = capfd.readouterr()
        assert left.value.code in {1, 2}, arguments[0]
        assert "Traceback" not in err
    arguments = ["m.safetensors", "--task", "set.csv", "--probe", "logistic", "--out", "scores"]
    evaluated = CliRunner().invoke(evaluate, arguments)
    assert evaluated.exit_code in {1, 2}, evaluated.output
    assert f"s/{files[0].name}: " in evaluated.output.replace("\n", "")
    with (tmp_path / "packed" / "rejected.csv").open(newline="") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert len(reasons) == len(files)
    made = {path.name for path in tmp_path.iterdir()}
    assert not made & {"page.html", "v.png"}
    assert not (tmp_path / "out" / "embeddings.npy").exists()
