"""WebDataset shards: samples, labels, names that lead elsewhere, tars cut anywhere."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from byola_rq.audio.io import EncodedAudio, inspect_audio
from byola_rq.sources.clip_source import Listing
from byola_rq.sources.encoded import read_encoded
from byola_rq.sources.tar import list_tar


@pytest.fixture(scope="module")
def wav(sounds: Path) -> bytes:
    return sorted(sounds.glob("*.wav"))[0].read_bytes()


def make_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def list_one(path: Path) -> tuple[dict[str, str], Listing]:
    """Labels by clip id."""
    listing = Listing()
    listing.clips.extend(list_tar(str(path), "shard-0", listing))
    return {clip.clip_id: clip.labels for clip in listing.clips}, listing


def test_samples_share_the_labels_beside_them(tmp_path: Path, wav: bytes) -> None:
    members = [
        ("one.wav", wav),
        ("one.cls", b"7\n"),
        ("one.json", b'{"labels": ["no"]}'),
        ("two.json", json.dumps({"label": "a dog", "labels": ["dog", "barking", 3]}).encode()),
        ("two.drums.flac", wav),
        ("two.bass.ogg", wav),
        ("two.txt", b"no"),
        ("two.png", b"no sound"),
        ("dir/two.wav", wav),
        ("three.mp3", wav),
        ("three.txt", b"a  caption\nof two lines\xff"),
        ("four.OPUS", wav),
        ("four.json", b"no json"),
        ("five.wav", wav),
        ("five.json", b"[" * 60_000),
        ("six.wav", wav),
        ("six.json", b" " * 70_000 + b'{"labels": "too far"}'),
        ("seven.json", b'{"labels": "alone"}'),
        ("eight.wav", wav),
    ]
    labels, listing = list_one(make_tar(tmp_path / "a.tar", members))
    assert labels == {
        "shard-0/one.wav": "7",
        "shard-0/two.drums.flac": "dog,barking,3",
        "shard-0/two.bass.ogg": "dog,barking,3",
        "shard-0/dir/two.wav": "",
        "shard-0/three.mp3": "a caption of two lines�",
        "shard-0/four.OPUS": "",
        "shard-0/five.wav": "",
        "shard-0/six.wav": "",
        "shard-0/eight.wav": "",
    }
    assert not listing.damaged
    assert listing.notes == [f"{tmp_path}/a.tar: not read: 1 .json, 1 .png"]
    assert str(listing.clips[1]) == f"{tmp_path}/a.tar::two.drums.flac"


def test_what_macos_leaves_is_passed_over_and_the_rest_is_named(tmp_path: Path, wav: bytes) -> None:
    names = ["./a.wav", "._a.wav", "x/._b.wav", "__MACOSX/c.wav", ".git/d.wav", "3.wma", "x/4.WMA"]
    labels, listing = list_one(make_tar(tmp_path / "a.tar", [(name, wav) for name in names]))
    assert list(labels) == ["shard-0/a.wav"]
    note = f"{tmp_path}/a.tar: not read: 2 .wma; some are audio: convert these to wav or flac"
    assert listing.notes == [note]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_whole(tmp_path: Path, wav: bytes, form: int) -> None:
    names = ["a" * 99 + ".wav", "ü" * 120 + ".wav", "/".join(["d" * 90] * 4) + "/x.wav"]
    tar = make_tar(tmp_path / "a.tar", [(name, wav) for name in names], form)
    labels, _ = list_one(tar)
    assert list(labels) == [f"shard-0/{name}" for name in names]


def test_names_that_lead_out_are_read_and_lead_nowhere(tmp_path: Path, wav: bytes) -> None:
    names = ["../../etc/a.wav", "/abs/b.wav", "./c.wav", "x/../d.wav", "._c.wav", "x/.e.wav"]
    labels, listing = list_one(make_tar(tmp_path / "a.tar", [(name, wav) for name in names]))
    assert list(labels) == [f"shard-0/{n}" for n in ("etc/a.wav", "abs/b.wav", "c.wav", "x/d.wav")]
    assert not listing.damaged
    (note,) = listing.notes
    assert "3 members with absolute or .. names, like '../../etc/a.wav'" in note
    assert os.listdir(tmp_path) == ["a.tar"]


def test_links_have_no_sound(tmp_path: Path, wav: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("s.wav", tarfile.SYMTYPE), ("h.wav", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("a.wav")
        member.size = len(wav)
        tar.addfile(member, io.BytesIO(wav))
    labels, listing = list_one(tmp_path / "a.tar")
    assert list(labels) == ["shard-0/a.wav"]
    reason = "a link, which has no sound of its own"
    assert listing.damaged == [(f"{tmp_path}/a.tar::{n}", reason) for n in ("s.wav", "h.wav")]


def test_a_tar_without_sound_says_so(tmp_path: Path) -> None:
    _, listing = list_one(make_tar(tmp_path / "a.tar", [("a.txt", b"x")]))
    assert listing.damaged == [(f"{tmp_path}/a.tar", "no audio member to read in this tar")]
    _, listing = list_one(tmp_path / "gone.tar")
    assert listing.damaged[0][1].startswith("cannot be read (No such file")


def test_a_tar_cut_anywhere_gives_what_is_whole(tmp_path: Path, wav: bytes) -> None:
    whole = make_tar(tmp_path / "a.tar", [(f"{n}.wav", wav) for n in range(3)])
    _, listing = list_one(whole)
    ends = [clip.offset + clip.size for clip in listing.clips]
    data = whole.read_bytes()
    for cut in {1, 511, 512, 600, *ends, *(e - 1 for e in ends), *range(700, len(data), 7919)}:
        path = tmp_path / "cut.tar"
        path.write_bytes(data[:cut])
        labels, listing = list_one(path)
        num_whole = sum(end <= cut for end in ends)
        assert list(labels) == [f"shard-0/{n}.wav" for n in range(num_whole)], cut
        for clip in listing.clips:
            audio = read_encoded(clip)
            assert isinstance(audio, EncodedAudio)
            assert audio.data == wav
            assert inspect_audio(audio).num_samples > 0
        end_of_blocks = -(-ends[-1] // 512) * 512
        if cut <= end_of_blocks:
            ((where, reason),) = listing.damaged
            assert where == str(path)
            assert "cut" in reason or "shorter than a header" in reason
    path.write_bytes(data[: ends[1] - 5])
    _, listing = list_one(path)
    ((where, reason),) = listing.damaged
    assert where == str(path)
    assert "1.wav" in reason
    assert f"{ends[1]:,}" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"\x1f\x8b" + data, "compressed"),
        (lambda data: data + data, "after the end mark at byte"),
    ],
)
def test_compressed_and_joined_tars_are_reported(
    tmp_path: Path, wav: bytes, change, reason: str
) -> None:
    path = make_tar(tmp_path / "a.tar", [("1.wav", wav)])
    path.write_bytes(change(path.read_bytes()))
    _, listing = list_one(path)
    assert [where for where, why in listing.damaged if reason in why] == [str(path)]
