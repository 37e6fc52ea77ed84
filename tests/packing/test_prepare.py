"""`prepare` makes the same packed corpus of a collection, whatever interrupts it."""

import csv
import errno
import functools
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from byola_rq.corpus.packed_format import find_damage, open_packed
from byola_rq.errors import CorpusError
from byola_rq.packing import pack as packing
from byola_rq.packing.decode import ClipJob, ClipRules, DecodedClip, decode_clip
from byola_rq.packing.plan import PackingOptions
from byola_rq.packing.prepare import PackingOutcome, describe_work, merge_corpus, prepare_corpus
from byola_rq.packing.shards import PackingError
from byola_rq.runtime.lock import locked
from byola_rq.runtime.sandbox import Failure, Limits
from byola_rq.runtime.workers import map_in_processes
from tests.refusal import refused

SMALL_SHARDS = 0.02  # megabytes: some clips each


def tone(seconds: float, rate: int = 16000, number: int = 0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * (200 + 17 * number) * time)


def prepare(*sources: object, to: Path, num_workers: int = 2, **options: Any) -> PackingOutcome:
    share = options.pop("share", None)
    options = {"shard_megabytes": SMALL_SHARDS, **options}
    return prepare_corpus(
        [str(source) for source in sources],
        to,
        PackingOptions(**options),
        num_workers=num_workers,
        share=share,
    )


def rejects(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="") as file:
        return {Path(row["source"]).name: row["reason"] for row in csv.DictReader(file)}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 clips of 0.05 to 0.3 s in all codecs and some rates; every tenth file is broken."""
    folder = tmp_path_factory.mktemp("collection")
    for number in range(100):
        suffix = ("wav", "flac", "ogg", "mp3")[number % 4]
        path = folder / f"{number % 3}" / f"{number:03d}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        rate = (16000, 44100)[number % 7 == 0]
        soundfile.write(path, tone(0.05 + number % 6 * 0.05, rate, number), rate)
        if number % 10 == 9:
            path.write_bytes(path.read_bytes()[: 30 * (number // 10)])
    return folder


@pytest.fixture(scope="module")
def packed(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, packed without a disturbance by one worker."""
    folder = tmp_path_factory.mktemp("packed") / "corpus"
    assert prepare(collection, to=folder, num_workers=1).clips == 90
    return folder


def test_a_collection_is_packed(collection: Path, packed: Path) -> None:
    corpus = open_packed(packed)
    assert (len(corpus), corpus.info["rejected"], corpus.info["duplicates"]) == (90, 10, 0)
    assert len(corpus.shards) > 10
    assert list(find_damage(packed)) == []
    ids = corpus.read_column("clip_id")
    assert ids == sorted(ids)
    for number, (clip_id, source) in enumerate(zip(ids, corpus.read_column("source"), strict=True)):
        assert source == str(collection / clip_id)
        assert abs(len(corpus.clip(number)) - round(soundfile.info(source).duration * 16000)) <= 1
        if source.endswith(("wav", "flac")) and soundfile.info(source).samplerate == 16000:
            expected, _ = soundfile.read(source, dtype="int16")
            np.testing.assert_array_equal(corpus.clip(number), expected)
    reasons = rejects(packed)
    assert sorted(reasons) == [
        f"{number:03d}.{'flac' if number % 4 == 1 else 'mp3'}" for number in range(9, 100, 10)
    ]
    assert "0 bytes" in reasons["009.flac"]


def test_shards_are_equal_runs_of_the_list(collection: Path, packed: Path) -> None:
    corpus = open_packed(packed)
    per_shard = corpus.info["options"]["clips_per_shard"]
    listed = sorted(str(path.relative_to(collection)) for path in collection.rglob("*.*"))
    places = [listed.index(clip_id) for clip_id in corpus.read_column("clip_id")]
    assert corpus.shard.tolist() == [place // per_shard for place in places]
    sizes = [len(samples) * 2 for samples in corpus.shards]
    assert 0.5 < np.mean(sizes) / (SMALL_SHARDS * 1e6) < 1.5


def test_more_workers_change_nothing(collection: Path, packed: Path, tmp_path: Path) -> None:
    prepare(collection, to=tmp_path / "c", num_workers=3)
    assert content(tmp_path / "c") == content(packed)


def test_shares_make_the_same_corpus(collection: Path, packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    third = prepare(collection, to=folder, share=(3, 3))
    first = prepare(collection, to=folder, share=(1, 3))
    with refused(CorpusError, "missing", folder) as caught:
        merge_corpus(folder)
    assert caught.value.value[:5] == [1, 4, 7, 10, 13]
    # The second machine is given a share that is too large, and stops again.
    second = prepare(collection, to=folder, share=(2, 3))
    assert first.clips + second.clips + third.clips == 90
    assert first.rejected + second.rejected + third.rejected == 10
    assert not (folder / "corpus.json").exists()
    outcome = merge_corpus(folder)
    assert (outcome.clips, outcome.rejected) == (90, 10)
    assert outcome.hours == pytest.approx(first.hours + second.hours + third.hours)
    assert content(folder) == content(packed)
    assert merge_corpus(folder) == outcome  # done already


def test_a_whole_corpus_is_not_done_again(collection: Path, packed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert prepare(collection, to=packed).clips == 90
    assert {path: path.stat().st_mtime_ns for path in packed.iterdir()} == before
    with refused(CorpusError, "different", packed, key="max_seconds"):
        prepare(collection, to=packed, rules=ClipRules(max_seconds=9))
    with refused(CorpusError, "different", packed) as caught:
        prepare(collection / "0", to=packed)
    assert set(caught.value.value) == {"list_sha256", "listed_clips", "sources"}


# Sources of every form.


def test_every_form_of_source_in_one_corpus(tmp_path: Path) -> None:
    def encoded(number: int, seconds: float = 0.1) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, tone(seconds, number=number), 16000, format="FLAC")
        return file.getvalue()

    (tmp_path / "folder").mkdir()
    for number in range(3):
        (tmp_path / "folder" / f"{number}.flac").write_bytes(encoded(number))
    shutil.copy(tmp_path / "folder" / "2.flac", tmp_path / "listed.flac")
    (tmp_path / "clips.csv").write_text(
        "path,labels,start,end\nfolder/0.flac,dog,0.01,0.06\nfolder/1.flac,cat,0,0.05\ngone.wav,,,\n"
    )
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in (("a.flac", encoded(4)), ("a.cls", b"bell"), ("b.flac", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    rows = [{"bytes": encoded(number), "path": f"{number}.flac"} for number in (5, 6, 7)]
    rows[1]["bytes"] = None  # type: ignore[typeddict-item]
    pq.write_table(pa.table({"audio": rows}), tmp_path / "table.parquet")
    (tmp_path / "balanced.csv").write_text(
        "# Segments csv\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
        '--abcdefghi, 1.000, 3.000, "/m/0a,/m/0b"\nnever_there, 0.000, 10.000, "/m/0c"\n'
    )
    (tmp_path / "audioset").mkdir()
    (tmp_path / "audioset" / "Y--abcdefghi.flac").write_bytes(encoded(8, 5.0))

    outcome = prepare(
        tmp_path / "folder",
        tmp_path / "clips.csv",
        tmp_path / "shard.tar",
        tmp_path / "table.parquet",
        f"{tmp_path / 'balanced.csv'}={tmp_path / 'audioset'}",
        to=tmp_path / "packed",
    )
    corpus = open_packed(tmp_path / "packed")
    clips = dict(
        zip(
            corpus.read_column("source"),
            zip(corpus.num_samples.tolist(), corpus.read_column("labels"), strict=True),
            strict=True,
        )
    )
    assert clips == {
        f"{tmp_path}/folder/0.flac": (1600, ""),
        f"{tmp_path}/folder/1.flac": (1600, ""),
        f"{tmp_path}/folder/2.flac": (1600, ""),
        f"{tmp_path}/folder/0.flac@0.01-0.06": (800, "dog"),
        f"{tmp_path}/folder/1.flac@0-0.05": (800, "cat"),
        f"{tmp_path}/shard.tar::a.flac": (1600, "bell"),
        f"{tmp_path}/table.parquet::0 (5.flac)": (1600, ""),
        f"{tmp_path}/table.parquet::2 (7.flac)": (1600, ""),
        f"{tmp_path}/audioset/Y--abcdefghi.flac@1-3": (32000, "/m/0a,/m/0b"),
    }
    reasons = "\n".join(
        f"{source}: {reason}" for source, reason in rejects(tmp_path / "packed").items()
    )
    for expected in ("shard.tar::b.flac: ", "6.flac", "gone.wav", "never_there"):
        assert expected in reasons
    assert outcome.rejected == 4
    part = np.load(tmp_path / "packed" / "pcm-00000.npy")
    assert part.dtype == np.int16


def test_the_same_clip_twice_is_kept_once_and_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / f"{name}.wav", tone(0.1), 16000)
    sources = (tmp_path / "a", tmp_path / "b", tmp_path / "a" / "a.wav")
    outcome = prepare(*sources, to=tmp_path / "packed")
    assert (outcome.clips, outcome.rejected, outcome.duplicates) == (2, 0, 1)
    (reason,) = rejects(tmp_path / "packed").values()
    assert str(tmp_path / "a" / "a.wav") in reason


# Interruptions.


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "byola_rq", "prepare", *map(str, arguments)]


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def pieces(folder: Path) -> int:
    return len(list((folder / ".parts").glob("[0-9]*.json"))) if folder.exists() else 0


def wait_for_pieces(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while pieces(folder) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


@pytest.fixture(scope="module")
def many(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 1,800 parts of the collection's clips: seconds of work."""
    path = tmp_path_factory.mktemp("many") / "clips.csv"
    good = [each for each in sorted(collection.rglob("*.*")) if not each.stem.endswith("9")]
    rows = [
        f"{each},{start:.3f},{start + 0.04:.3f}" for each in good for start in np.arange(20) / 2000
    ]
    path.write_text("path,start,end\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def many_packed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "corpus"
    prepare(many, to=folder)
    return folder


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    many: Path, many_packed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    arguments = (many, folder, "--shard-megabytes", SMALL_SHARDS)
    kept = 0
    for num_workers in (1, 2):
        process = start(*arguments, "--workers", num_workers)
        wait_for_pieces(process, folder, kept + 1)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert kept < pieces(folder) < len(open_packed(many_packed).shards), seed
        kept = pieces(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("pcm-*.npy")}
    prepare(many, to=folder)
    assert content(folder) == content(many_packed), seed
    again = [path for path, moment in before.items() if path.stat().st_mtime_ns != moment]
    assert len(again) <= 1, seed  # killed between a shard's name and its piece
    assert kept >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_signals_stop_it_with_one_line_and_whole_shards(
    many: Path, many_packed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "c"
    process = start(many, folder, "--shard-megabytes", SMALL_SHARDS, "--workers", 2)
    wait_for_pieces(process, folder, 2)
    os.killpg(process.pid, number)  # as a terminal and a scheduler do
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    whole = len(open_packed(many_packed).shards)
    assert pieces(folder) < whole
    (line,) = lines
    for told in (folder, number.name, f"{pieces(folder)} of {whole} "):
        assert str(told) in line
    assert "Traceback" not in err
    assert not list((folder / ".parts").glob("*.partial"))
    prepare(many, to=folder)
    assert content(folder) == content(many_packed)


def limit_file_size(num_bytes: int) -> Callable[[], None]:
    return functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_what_is_not_whole(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "c"
    source.mkdir()
    for number in range(12):
        soundfile.write(source / f"{number:02d}.wav", tone(3.0 if number == 9 else 0.1), 16000)
    arguments = (source, folder, "--shard-megabytes", 0.04, "--workers", 1)
    # The 96,000 bytes of the long clip do not fit any more.
    process = start(*arguments, preexec_fn=limit_file_size(60_000))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert str(folder) in lines[0]
    assert os.strerror(errno.EFBIG) in lines[0]
    kept = pieces(folder)
    assert kept >= 2
    assert f"{kept} of " in lines[0]
    assert "Traceback" not in err
    assert not list((folder / ".parts").glob("*.partial"))
    assert subprocess.run(command(*arguments), capture_output=True, check=True).stderr
    assert list(find_damage(folder)) == []
    assert len(open_packed(folder)) == 12


def test_room_is_looked_for_ahead(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=15_000_000))
    folder = tmp_path / "deep" / "c"
    with refused(PackingError, "unwritable", folder, value=15_000_000) as caught:
        prepare(collection, to=folder)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "deep").exists()


def test_two_runs_do_not_pack_the_same_share(collection: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    prepare(collection, to=folder, share=(1, 20))
    held = refused(CorpusError, "held", folder, value="2-of-20")
    with locked(folder / ".parts" / "2-of-20.lock", patience=0), held as caught:
        prepare(collection, to=folder, share=(2, 20))
    assert str(os.getpid()) in str(caught.value)
    assert prepare(collection, to=folder, share=(2, 20)).clips > 0


# Hostile clips.


def decode_or_die(job: ClipJob, rules: ClipRules) -> bytes:
    """A decoder with faults; imported by the workers."""
    match job.clip.clip_id:
        case "1/001.flac":
            os.abort()
        case "1/004.wav":
            time.sleep(600)
        case "2/002.ogg":
            os.kill(os.getpid(), signal.SIGSEGV)
    return decode_clip(job, rules).to_bytes()


@pytest.mark.slow
def test_clips_that_crash_or_hang_the_decoder_are_left_out(
    collection: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_clips(
        jobs: Iterator[ClipJob], rules: ClipRules, **options: Any
    ) -> Iterator[DecodedClip | Failure]:
        function = functools.partial(decode_or_die, rules=rules)
        for each in map_in_processes(function, jobs, **options):
            yield each if isinstance(each, Failure) else DecodedClip.from_bytes(each)

    monkeypatch.setattr(packing, "decode_clips", decode_clips)
    folder = tmp_path / "c"
    assert prepare(collection, to=folder, limits=Limits(seconds=1)).clips == 87
    reasons = rejects(folder)
    assert "signal 6" in reasons["001.flac"]
    assert "signal 11" in reasons["002.ogg"]
    assert " 1 s" in reasons["004.wav"]
    assert len(reasons) == 13
    ours, whole = open_packed(folder), open_packed(packed)
    ids = whole.read_column("clip_id")
    for number, clip_id in enumerate(ours.read_column("clip_id")):
        np.testing.assert_array_equal(ours.clip(number), whole.clip(ids.index(clip_id)))


def test_real_clips_over_the_limits(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "a.wav", tone(0.1), 16000)
    # Its samples alone are 115 MB.
    soundfile.write(source / "large.flac", np.zeros(3600 * 8000, np.int16), 8000)
    for limits, told in [(Limits(seconds=60, gigabytes=0.1), " 0.1 GB"), (Limits(0.3), " 0.3 s")]:
        folder = tmp_path / f"{limits.seconds}"
        assert prepare(source, to=folder, limits=limits, num_workers=1).clips == 1
        ((name, reason),) = rejects(folder).items()
        assert name == "large.flac"
        assert told in reason


# What is refused.


def test_another_job_in_the_folder_is_refused(collection: Path, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "c"
    shutil.copytree(collection / "0", source)
    prepare(source, to=folder, share=(1, 2))
    for options, key, was, now in [
        ({"rules": ClipRules(max_seconds=1.0)}, "max_seconds", "3600.0", "1.0"),
        ({"limit": 5}, "limit", "None", "5"),
        ({"limits": Limits(seconds=9)}, "clip_timeout", "60.0", "9"),
    ]:
        with refused(CorpusError, "different", folder, key=key) as caught:
            prepare(source, to=folder, share=(2, 2), **options)
        assert {was, now} <= set(caught.value.value[key].replace(",", "").split())
    last = sorted(source.iterdir())[-1]
    last.rename(last.with_name("zzz.wav"))
    with refused(CorpusError, "different", folder, key="clips") as caught:
        prepare(source, to=folder, share=(2, 2))
    assert caught.value.value["clips"].endswith(" to 33")  # places in the list
    soundfile.write(source / "more.wav", tone(0.1), 16000)
    with refused(CorpusError, "different", folder, key="clips") as caught:
        prepare(source, to=folder, share=(2, 2))
    assert {"34", "35"} <= set(caught.value.value["clips"].split())  # numbers of clips
    with refused(CorpusError, "missing", folder) as caught:
        merge_corpus(folder)
    assert caught.value.value[0] == 1


@pytest.mark.parametrize("form", ["folder", "list"])
def test_a_folder_inside_the_source_is_refused(tmp_path: Path, form: str) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.1), 16000)
    source = tmp_path if form == "folder" else f"{tmp_path}/list.csv={tmp_path}"
    for folder in (tmp_path, tmp_path / "packed", tmp_path / "x" / ".." / "packed"):
        with refused(CorpusError, "usage", folder, value=str(tmp_path)):
            prepare(source, to=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_folder_of_something_else_is_refused(collection: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.write_text("a file")
    with refused(CorpusError, "foreign", folder):
        prepare(collection, to=folder)
    folder.unlink()
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with refused(CorpusError, "exists", folder, value="thesis.tex"):
        prepare(collection, to=folder)
    (folder / "corpus.json").write_text('{"format": "byola_rq packed corpus", "format_version": 7}')
    with refused(CorpusError, "newer", folder, value=7):
        prepare(collection, to=folder)
    with refused(CorpusError, "missing", tmp_path):
        merge_corpus(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", "thesis.tex"]


# Options, and the command.


def test_limit_and_lengths(collection: Path, tmp_path: Path) -> None:
    rules = ClipRules(min_seconds=0.1, max_seconds=0.2)
    outcome = prepare(collection, to=tmp_path / "c", limit=50, rules=rules)
    assert outcome.clips + outcome.rejected == 50
    corpus = open_packed(tmp_path / "c")
    assert corpus.num_samples.min() >= 1600
    assert corpus.num_samples.max() <= 3200
    assert corpus.info["options"]["limit"] == 50
    reasons = rejects(tmp_path / "c").values()
    for told in ("0.1 s; got 0.050 s", "0.2 s; got 0.25 s"):
        assert any(told in reason for reason in reasons)


def test_relative_paths_are_those_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("source").mkdir()
    soundfile.write("source/a.wav", tone(0.1), 16000)
    assert prepare("source", to=Path("packed")).clips == 1
    assert open_packed(Path("packed")).read_column("source") == ["source/a.wav"]


def test_a_dry_run_says_what_there_is_and_writes_nothing(collection: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "c"
    options = PackingOptions(shard_megabytes=SMALL_SHARDS)
    lines = describe_work([str(collection)], folder, options, num_workers=1)
    assert list(tmp_path.iterdir()) == []
    assert lines == [
        f"{collection}: 100 clips found",
        "clips: 100 (100 files)",
        "left out already: 0 missing, 0 damaged, 0 duplicates",
        "shards: 25 of 4 clips",
    ]


@pytest.mark.slow
def test_the_command(collection: Path, packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    arguments = (collection, folder, "--shard-megabytes", SMALL_SHARDS, "--strict")
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == f"{folder}: 90 clips, 0.00 hours, 10 rejected, 0 duplicates\n"
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {folder}: 10 ")
    assert str(folder / "rejected.csv") in line
    assert "packing: 100/100  " in done.stderr
    assert " clips/s  0.00 h  10 rejected  " in done.stderr
    assert content(folder) == content(packed)


def invoke(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: what it printed, and how it left."""
    from contextlib import redirect_stderr, redirect_stdout

    from byola_rq.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as caught:
        main(["prepare", *map(str, arguments)])
    return int(caught.value.code or 0), out.getvalue(), err.getvalue()


def test_shares_on_the_command_line(collection: Path, packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    share = (collection, folder, "--shard-megabytes", SMALL_SHARDS, "--workers", 1, "--shard")
    status, out, _ = invoke(*share, "1/2")
    assert status == 0
    assert out.startswith(f"{folder}, share 1/2: ")
    assert out.endswith(f"when all shares are packed: byola-rq prepare --merge {folder}\n")
    status, _, err = invoke("--merge", folder)
    assert status == 2
    assert "1, 3, 5" in err
    assert invoke(*share, "2/2")[0] == 0
    status, out, _ = invoke("--merge", folder)
    assert (status, out) == (0, f"{folder}: 90 clips, 0.00 hours, 10 rejected, 0 duplicates\n")
    assert content(folder) == content(packed)


def test_verify_on_the_command_line(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(packed, folder)
    status, out, _ = invoke("--verify", folder)
    assert status == 0
    assert out.endswith(" files are intact\n")
    data = bytearray((folder / "pcm-00001.npy").read_bytes())
    data[-1] ^= 128
    (folder / "pcm-00001.npy").write_bytes(data)
    status, out, err = invoke("--verify", folder)
    assert status == 1
    assert out.startswith("pcm-00001.npy: its SHA-256 is not that of corpus.json")
    assert "clips are in it: 0/0" in out
    assert f"error: {folder}: 1 of " in err


def test_nothing_packed_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.wav").write_text("no sound")
    status, out, err = invoke(tmp_path / "source", tmp_path / "c", "--workers", 1)
    assert status == 1
    assert "0 clips, 0.00 hours, 1 rejected" in out
    assert str(tmp_path / "c" / "rejected.csv") in err
    assert list(rejects(tmp_path / "c")) == ["a.wav"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dest"], ["SOURCE", "dest"]),
        (["a", "dest", "--merge"], ["--merge", "a dest"]),
        (["dest", "--verify", "--merge"], ["--merge", "dest --verify"]),
        (["dest", "--verify", "--limit", "3"], ["--verify", "dest --limit"]),
        (["a", "dest", "--shard", "0/4"], ["--shard", "0/4"]),
        (["a", "dest", "--shard", "5/4"], ["--shard", "5/4"]),
        (["a", "dest", "--shard", "one"], ["--shard", "one"]),
        (
            ["a", "dest", "--min-seconds", "5", "--max-seconds", "4"],
            ["--min-seconds", "--max-seconds", "5", "4"],
        ),
        (["nowhere", "dest"], ["error: nowhere: "]),
        (["dest", "--verify"], ["error: dest: ", "corpus"]),
        (["dest", "--merge"], ["error: dest: ", "merge"]),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], told: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = invoke(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert all(each in err for each in told), err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
