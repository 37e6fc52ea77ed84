"""The sources together: every form gives the same sounds, in one order, each clip once."""

import io
import os
import random
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from byola_rq.audio.io import EncodedAudio, read_audio
from byola_rq.errors import AudioError, Code, CorpusError
from byola_rq.sources.encoded import iterate_encoded, read_encoded
from byola_rq.sources.listing import list_sources
from tests.refusal import refused

FORMS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.fixture(scope="module")
def encoded(sounds: Path) -> dict[str, bytes]:
    """Ten clips, two of each form, by their names."""
    clips = {}
    for number, path in enumerate(sorted(sounds.glob("*.wav"))[:10]):
        samples, rate = soundfile.read(path)
        suffix = list(FORMS)[number % len(FORMS)]
        container, codec = FORMS[suffix]
        data = io.BytesIO()
        soundfile.write(data, samples, rate, format=container, subtype=codec)
        clips[f"clip{number}{suffix}"] = data.getvalue()
    return clips


def make_folder(folder: Path, clips: dict[str, bytes]) -> Path:
    for name, data in clips.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def make_tar(path: Path, clips: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in clips.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def make_table(path: Path, clips: dict[str, bytes]) -> Path:
    rows = [{"bytes": data, "path": name} for name, data in clips.items()]
    pq.write_table(pa.table({"audio": rows}), path, row_group_size=3)
    return path


def make_manifest(path: Path, clips: dict[str, bytes]) -> Path:
    make_folder(path.parent / "audio", clips)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = "".join(f"audio/{name}{delimiter}x\n" for name in clips)
    path.write_text(f"path{delimiter}labels\n{rows}")
    return path


def make_fairseq(path: Path, clips: dict[str, bytes]) -> Path:
    make_folder(path.parent / "audio", clips)
    rows = "".join(f"{name}\t16000\n" for name in clips)
    path.write_text(f"{path.parent / 'audio'}\n{rows}")
    return path


def make_parquet_manifest(path: Path, clips: dict[str, bytes]) -> Path:
    make_folder(path.parent / "audio", clips)
    pq.write_table(pa.table({"path": [f"audio/{name}" for name in clips]}), path)
    return path


def make_segment_list(path: Path, clips: dict[str, bytes]) -> str:
    make_folder(path.parent / "audio", clips)
    rows = "".join(f'{Path(name).stem}, 0.000, 10.000, "/m/a,/m/b"\n' for name in clips)
    path.write_text(f"# list\n# num_segs={len(clips)}\n# YTID, start_seconds\n{rows}")
    return f"{path}={path.parent / 'audio'}"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make_folder, "folder"),
        (make_tar, "shard-00.tar"),
        (make_table, "table.parquet"),
        (make_manifest, "m.csv"),
        (make_manifest, "m.tsv"),
        (make_parquet_manifest, "m.parquet"),
        (make_fairseq, "train.tsv"),
        (make_segment_list, "segments.csv"),
    ],
)
def test_every_form_gives_the_same_sounds(
    tmp_path: Path, encoded: dict[str, bytes], make, name: str
) -> None:
    listing = list_sources([make(tmp_path / name, encoded)])
    assert listing.damaged == listing.missing == listing.duplicates == []
    assert len({clip.clip_id for clip in listing.clips}) == len(encoded)
    found = list(iterate_encoded(listing.clips))
    for clip, audio, data in zip(listing.clips, found, encoded.values(), strict=True):
        assert not isinstance(audio, AudioError)
        expected = read_audio(EncodedAudio("original", data), 16000)
        assert torch.equal(read_audio(audio, 16000), expected), clip
        assert torch.equal(read_audio(read_encoded(clip), 16000), expected), clip


def test_ids_do_not_depend_on_where_a_source_lies(
    tmp_path: Path, encoded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(root: Path) -> list[Path | str]:
        folder = make_folder(root / "clips", {f"a/{name}": data for name, data in encoded.items()})
        make_tar(folder / "b.tar", {f"x/{name}": data for name, data in encoded.items()})
        (root / "tables").mkdir()
        table = make_table(root / "tables" / "t.parquet", encoded)
        (root / "m").mkdir()
        (root / "s").mkdir()
        manifest = make_manifest(root / "m" / "m.csv", encoded)
        return [folder, table, manifest, make_segment_list(root / "s" / "s.csv", encoded)]

    one = list_sources(build(tmp_path / "one"))
    build(tmp_path / "other" / "place")
    monkeypatch.chdir(tmp_path / "other" / "place")
    # Its copies are found by their ids; these differ between the forms.
    other = list_sources(["clips", "tables/t.parquet", "m/m.csv", "s/s.csv=s/audio"])
    assert [clip.clip_id for clip in one.clips] == [clip.clip_id for clip in other.clips]
    assert [clip.clip_id for clip in one.clips[::10]] == [
        "a/clip0.wav",
        "b/x/clip0.wav",
        "t/clip0.wav",
        "audio/clip0.wav",
        "clip0_0",
    ]
    assert {clip.labels for clip in one.clips} == {"", "x", "/m/a,/m/b"}


def test_the_order_of_the_file_system_does_not_matter(
    tmp_path: Path, encoded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "f", {f"{n[4]}/{n}": data for n, data in encoded.items()})
    make_tar(folder / "3" / "t.tar", encoded)
    (folder / "1" / "gone.wav").symlink_to("nowhere.wav")
    (folder / "1" / "b.tar.gz").write_bytes(b"")
    (folder / "0" / "loop").symlink_to(folder)
    (folder / "9" / "x.wma").write_bytes(b"")
    expected = list_sources([folder])
    assert expected.damaged
    assert expected.missing
    assert expected.duplicates
    assert expected.notes
    original = os.scandir
    order = random.Random(0)

    class Shuffled:
        """Result of scandir in random order."""

        def __init__(self, path: str) -> None:
            with original(path) as entries:
                self.entries = list(entries)
            order.shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    for _ in range(5):
        assert list_sources([folder]) == expected


def test_a_file_is_listed_once_however_it_is_reached(
    tmp_path: Path, encoded: dict[str, bytes]
) -> None:
    manifest = make_manifest(tmp_path / "m.csv", encoded)
    folder = tmp_path / "audio"
    first = sorted(encoded)[0]
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "other-name.wav").symlink_to(folder / first)
    listing = list_sources(
        [folder, manifest, folder / first, tmp_path / "linked", tmp_path / "links"]
    )
    assert [clip.clip_id for clip in listing.clips] == sorted(encoded)
    assert len(listing.duplicates) == 2 * len(encoded) + 2
    link = str(tmp_path / "links" / "other-name.wav")
    assert (str(folder / first), link) in listing.duplicates
    tar = make_tar(tmp_path / "t.tar", encoded)
    table = make_table(tmp_path / "t.parquet", encoded)
    listing = list_sources([tar, table, tar, table])
    assert len(listing.clips) == len(listing.duplicates) == 2 * len(encoded)


def test_one_id_is_one_clip_only_if_its_bytes_are(
    tmp_path: Path, encoded: dict[str, bytes]
) -> None:
    wav, other = encoded["clip0.wav"], encoded["clip5.wav"]
    # As long, and equal in the middle: only reading them whole tells them apart.
    almost = bytearray(wav)
    almost[100] ^= 1
    one = make_folder(tmp_path / "one", {"1.wav": wav, "2.wav": wav, "3.wav": wav, "4.wav": wav})
    two = make_folder(tmp_path / "two", {"1.wav": wav, "2.wav": other, "3.wav": bytes(almost)})
    deep = make_folder(tmp_path / "deep" / "two", {"2.wav": wav, "3.wav": other})
    listing = list_sources([one, two, deep])
    assert [clip.clip_id for clip in listing.clips] == [
        "1.wav", "2.wav", "3.wav", "4.wav", "2/2.wav", "2/3.wav", "3/3.wav",
    ]  # fmt: skip
    assert [note for note in listing.notes if "3 clips" in note and "2/2.wav" in note]
    assert listing.duplicates == [
        (str(one / "1.wav"), str(two / "1.wav")),
        (str(one / "2.wav"), str(deep / "2.wav")),
    ]


def test_archives_named_alike_are_compared_by_content(
    tmp_path: Path, encoded: dict[str, bytes]
) -> None:
    names = list(encoded)
    changed = {name: encoded[names[number - 1]] for number, name in enumerate(names)}
    changed[names[0]] = encoded[names[0]]
    for make, name in ((make_tar, "a.tar"), (make_table, "a.parquet")):
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        for path in (one, two):
            path.parent.mkdir(exist_ok=True)
        listing = list_sources([make(one, encoded), make(two, changed)])
        ids = [clip.clip_id for clip in listing.clips]
        assert ids == [f"a/{each}" for each in names] + [f"2/a/{each}" for each in names[1:]]
        assert len(listing.duplicates) == 1


def test_segments_of_two_lists_with_one_id_are_one_clip(
    tmp_path: Path, encoded: dict[str, bytes]
) -> None:
    pairs = []
    for name, suffix in (("eval", ".wav"), ("balanced", ".flac")):
        folder = tmp_path / name
        folder.mkdir()
        clips = {f"abcdefghijk{suffix}": encoded[f"clip{'01'[suffix == '.flac']}{suffix}"]}
        pairs.append(make_segment_list(folder / f"{name}.csv", clips))
    listing = list_sources(pairs)
    assert [str(clip) for clip in listing.clips] == [f"{tmp_path}/eval/audio/abcdefghijk.wav@0-10"]
    assert len(listing.duplicates) == 1


def test_wrong_sources_are_refused(tmp_path: Path, encoded: dict[str, bytes]) -> None:
    wav = make_folder(tmp_path / "f", {"a=b.wav": encoded["clip0.wav"]}) / "a=b.wav"
    assert list_sources([wav]).clips[0].clip_id == "a=b.wav"
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "list.csv").write_text("# x\n# YTID, start_seconds\nabc, 0.0, 10.0, /m/a\n")
    (tmp_path / "x.tgz").write_bytes(b"")
    (tmp_path / "x.zip").write_bytes(b"")
    (tmp_path / "x.txt").write_text("")
    os.mkfifo(tmp_path / "pipe.wav")
    cases: dict[str, tuple[Code, str]] = {
        "gone": ("missing", "gone"),
        "gone=f": ("missing", f"gone={tmp_path}/f"),
        "list.csv=gone": ("missing", "gone"),
        "list.csv": ("usage", "list.csv"),
        "list.csv=f": ("missing", "list.csv"),
        "empty": ("empty", "empty"),
        "x.tgz": ("unsupported", "x.tgz"),
        "x.zip": ("unsupported", "x.zip"),
        "x.txt": ("foreign", "x.txt"),
        "pipe.wav": ("unreadable", "pipe.wav"),
    }
    for name, (code, blamed) in cases.items():
        with refused(CorpusError, code, tmp_path / blamed):
            list_sources([wav, f"{tmp_path}/" + name.replace("=", f"={tmp_path}/")])
    with refused(CorpusError, "usage"):
        list_sources([])


def test_a_broken_archive_stops_nothing_beside_others(
    tmp_path: Path, encoded: dict[str, bytes]
) -> None:
    good = make_tar(tmp_path / "good.tar", encoded)
    names = {
        "text.tar": (b"no tar at all" * 100, "not a tar"),
        "empty.tar": (b"", "not a tar (0 bytes"),
        "zipped.tar": (b"\x1f\x8b" + bytes(600), "the tar is compressed; unpack the compression"),
        "text.parquet": (b"no table", "not a Parquet file"),
    }
    for name, (data, _) in names.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in names]
    for sources in ([good, *paths], [tmp_path]):
        listing = list_sources(sources)
        assert len(listing.clips) == len(encoded)
        reasons = dict(listing.damaged)
        assert reasons.keys() == {str(path) for path in paths}
        for name, (_, reason) in names.items():
            assert reason in reasons[str(tmp_path / name)]
    with refused(CorpusError, "damaged", tmp_path / "text.tar") as caught:
        list_sources(paths)
    assert "and 3 more" in str(caught.value)


def test_every_clip_found_is_counted(tmp_path: Path, encoded: dict[str, bytes]) -> None:
    folder = make_folder(tmp_path / "f", encoded)
    make_tar(folder / "t.tar", encoded)
    calls = []
    list_sources(
        [folder, make_segment_list(tmp_path / "s.csv", encoded)], on_clip=lambda: calls.append(1)
    )
    assert len(calls) == 3 * len(encoded)


def test_what_changes_after_the_listing_is_an_error_of_its_clip(
    tmp_path: Path, encoded: dict[str, bytes]
) -> None:
    tar = make_tar(tmp_path / "t.tar", encoded)
    table = make_table(tmp_path / "t.parquet", encoded)
    listing = list_sources([tar, table])
    last = listing.clips[len(encoded) - 1]
    os.truncate(tar, last.offset + 5)
    make_table(table, dict(list(encoded.items())[:4]))
    found = list(iterate_encoded(listing.clips))
    bad = [n for n, audio in enumerate(found) if isinstance(audio, AudioError)]
    assert bad == [len(encoded) - 1, *range(len(encoded) + 4, 2 * len(encoded))]
    told = [found[place] for place in (bad[0], -1)]
    assert all(isinstance(error, AudioError) and error.code == "cut" for error in told)
    assert [error.path for error in told] == [tar, table]
    assert told[0].value == 5
    assert str(told[1]).startswith(f"{listing.clips[-1]}: ")
    tar.unlink()
    shutil.copy(tmp_path / "t.parquet", table.with_name("copy"))
    table.write_bytes(b"PAR1")
    for clip in (listing.clips[0], listing.clips[-1]):
        with refused(AudioError, "unreadable", clip.path):
            read_encoded(clip)


def test_a_file_named_by_itself_is_judged_by_its_bytes(
    tmp_path: Path, encoded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = next(iter(encoded.values()))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("sound.dat", "sound"):
        (tmp_path / name).write_bytes(sound)
        assert [clip.file for clip in list_sources([f"~/{name}"]).clips] == [f"{tmp_path}/{name}"]
    (tmp_path / "notes.txt").write_text("no sound")
    with refused(CorpusError, "foreign", tmp_path / "notes.txt"):
        list_sources([tmp_path / "notes.txt"])
