"""Clips in tar archives: found, read once, harmless whatever the archive holds."""

import contextlib
import gzip
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.audio.io import read_audio
from byola_rq.errors import AudioError
from evaluate.tasks import archives
from evaluate.tasks.archives import list_archive, read_member
from evaluate.tasks.task import TaskError
from tests.refusal import refused

Member = tuple[str, bytes]


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(archives, "_kept", type(archives._kept)())


def pack(path: Path, members: list[Member], mode: str = "w:gz", **arguments) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **arguments) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def noise(num_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(num_bytes)


@pytest.fixture
def clips() -> list[Member]:
    return [(f"s-1/wav/{number}.wav", noise(5_000, number)) for number in range(6)]


@pytest.fixture
def count_walks(monkeypatch) -> list[Path]:
    walks: list[Path] = []
    walk = archives._walk

    def counted(path, *, with_data):
        walks.append(path)
        yield from walk(path, with_data=with_data)

    monkeypatch.setattr(archives, "_walk", counted)
    return walks


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tgz", "w:gz"), ("a.tar.gz", "w:gz"), ("a.tar", "w:")]
)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_come_back(tmp_path, clips, name, mode, form):
    clips.append((f"{'long/' * 60}Käuzchen 梟.flac", noise(3)))  # longer than a header's field
    path = pack(tmp_path / name, clips, mode, format=form)
    assert list_archive(path) == tuple(name for name, _ in clips)
    for member, data in clips[::-1] + clips:
        read = read_member(path, member)
        assert (read.name, read.data) == (f"{path}/{member}", data)


def test_sound_comes_back(tmp_path):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, "FLOAT", format="WAV")
    path = pack(tmp_path / "a.tgz", [("a/wav/1.wav", file.getvalue())])
    read = read_audio(read_member(path, "a/wav/1.wav"), 16_000)
    np.testing.assert_array_equal(read.numpy(), waveform)


def test_only_audio_files_are_listed(tmp_path):
    members = [
        ("a/etc/PROMPTS", b"text"),
        ("a/wav/1.WAV", b"1"),
        ("a/wav/._1.WAV", b"what macOS leaves"),
        ("a/wav/2.flac", b"2"),
        ("a/wav/2.flac", b"again"),
        ("a/wav", b"a file with the name of a folder"),
    ]
    path = pack(tmp_path / "a.tgz", members)
    assert list_archive(path) == ("a/wav/1.WAV", "a/wav/2.flac")
    assert read_member(path, "a/wav/2.flac").data == b"2"
    with refused(AudioError, "missing", path, value="a/etc/PROMPTS"):
        read_member(path, "a/etc/PROMPTS")


def test_names_lead_nowhere(tmp_path):
    """Nothing is written, whatever the name; links and devices are left out."""
    outside = tmp_path / "outside.wav"
    outside.write_bytes(b"secret")
    path = tmp_path / "box" / "a.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name in ("../outside.wav", str(outside), "../../new.wav", "ok.wav"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))
        for kind, name in (
            (tarfile.SYMTYPE, "link.wav"),
            (tarfile.LNKTYPE, "hard.wav"),
            (tarfile.CHRTYPE, "device.wav"),
            (tarfile.FIFOTYPE, "pipe.wav"),
            (tarfile.DIRTYPE, "folder.wav"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(outside)
            tar.addfile(info)
    names = list_archive(path)
    assert names == ("../outside.wav", str(outside), "../../new.wav", "ok.wav")
    assert {read_member(path, name).data for name in names} == {b"data"}
    with refused(AudioError, "missing", path, value="link.wav"):
        read_member(path, "link.wav")
    assert outside.read_bytes() == b"secret"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tgz", "box", "outside.wav"]


def test_an_archive_is_read_once(tmp_path, clips, count_walks):
    path = pack(tmp_path / "a.tgz", clips)
    for member, data in clips + clips[::-1]:
        assert read_member(path, member).data == data
    assert count_walks == [path]


def test_many_threads_read_it_once(tmp_path, clips, count_walks):
    paths = [pack(tmp_path / f"{number}.tgz", clips) for number in range(2)]
    barrier = Barrier(8)

    def read_all(number: int) -> bool:
        barrier.wait()
        order = np.random.default_rng(number).permutation(len(clips))
        return all(
            read_member(paths[(number + k) % 2], clips[k][0]).data == clips[k][1] for k in order
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_all, range(8)))
    assert sorted(count_walks) == paths


def test_a_changed_archive_is_read_again(tmp_path, clips):
    path = pack(tmp_path / "a.tgz", clips)
    assert read_member(path, clips[0][0]).data == clips[0][1]
    pack(path, [(clips[0][0], b"changed")])
    assert read_member(path, clips[0][0]).data == b"changed"


def test_kept_archives_are_bounded(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ARCHIVES_KEPT", 3)
    monkeypatch.setattr(archives, "MAX_BYTES_KEPT", 70_000)  # two archives of 30,000 bytes
    for number in range(6):
        path = pack(tmp_path / f"{number}.tgz", clips)
        for member, data in clips:
            assert read_member(path, member).data == data
        assert sum(kept.num_bytes for kept in archives._kept.values()) <= 70_000
    assert len(archives._kept) == 2
    for number in range(6):
        small = pack(tmp_path / f"small{number}.tgz", clips[:1])
        read_member(small, clips[0][0])
        assert len(archives._kept) <= 3


def test_an_archive_too_large_to_keep_is_read_in_order(tmp_path, clips, monkeypatch, count_walks):
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES_KEPT", 12_000)  # two clips and a half
    path = pack(tmp_path / "a.tgz", clips)
    for member, data in clips:
        assert read_member(path, member).data == data
        assert next(iter(archives._kept.values())).num_bytes <= 12_000
    assert read_member(path, clips[4][0]).data == clips[4][1]
    assert count_walks == [path]
    for member, data in clips[::-1]:  # against its order, at a price
        assert read_member(path, member).data == data
    assert count_walks.count(path) <= 1 + len(clips)
    with refused(AudioError, "missing", path, value="gone.wav"):
        read_member(path, "gone.wav")


def test_a_clip_too_large_to_keep_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES_KEPT", 10)
    path = pack(tmp_path / "a.tgz", [("1.wav", noise(100)), ("2.wav", noise(90))])
    for name, size in (("2.wav", 90), ("1.wav", 100)):
        assert read_member(path, name).data == noise(size)


def find_damage(path: Path) -> str | None:
    with pytest.raises(TaskError) as caught:
        list_archive(path)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.code


@pytest.mark.parametrize("mode", ["w:gz", "w:"])
def test_every_cut_is_found(tmp_path, clips, mode):
    whole = pack(tmp_path / "whole", clips, mode).read_bytes()
    path = tmp_path / "a.tgz"
    content = len(gzip.decompress(whole) if mode == "w:gz" else whole)
    num_blocks = len(whole) // 512
    for size in [*range(512 * num_blocks, 0, -512), *range(1, len(whole), 1_777)]:
        if mode == "w:" and size > content - 10_240 + 512:
            continue  # all clips and the mark behind them are there
        path.write_bytes(whole[:size])
        assert find_damage(path) in {"cut", "foreign"}  # less than one header


def test_a_damaged_archive_gives_what_is_before(tmp_path, clips):
    path = pack(tmp_path / "a.tgz", clips)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert read_member(path, clips[0][0]).data == clips[0][1]
    for _ in range(2):
        with refused(AudioError, "cut", path):
            read_member(path, clips[-1][0])
    assert read_member(path, clips[0][0]).data == clips[0][1]


def test_a_changed_byte_is_found(tmp_path, clips):
    data = bytearray(pack(tmp_path / "a.tgz", clips).read_bytes())
    path = tmp_path / "a.tgz"
    for position in range(20, len(data), 997):
        changed = data.copy()
        changed[position] ^= 0x10
        path.write_bytes(changed)
        assert find_damage(path) in {"cut", "damaged", "foreign"}


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"text" * 500, bytes(100), noise(5_000)])
def test_what_is_no_archive(tmp_path, data):
    path = tmp_path / "a.tgz"
    path.write_bytes(data)
    assert find_damage(path) == ("cut" if data == b"\x1f\x8b" else "foreign")


def test_an_archive_that_is_not_there(tmp_path):
    path = tmp_path / "a.tgz"
    with refused(TaskError, "unreadable", path):
        list_archive(path)
    with refused(AudioError, "unreadable", path):
        read_member(path, "1.wav")


def test_an_archive_without_clips(tmp_path):
    assert list_archive(pack(tmp_path / "a.tgz", [])) == ()
    assert list_archive(pack(tmp_path / "b.tgz", [("LICENSE", b"GPL")])) == ()


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 100_000)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10_000_000)
    path = pack(tmp_path / "a.tgz", [("LICENSE", bytes(2_000_000)), ("1.wav", b"1")], "w:gz")
    assert path.stat().st_size * archives.MAX_UNPACKED_RATIO < 2_000_000
    limit = max(100_000, archives.MAX_UNPACKED_RATIO * path.stat().st_size)
    for kind, read in (
        (TaskError, lambda: list_archive(path)),
        (AudioError, lambda: read_member(path, "1.wav")),
    ):
        with refused(kind, "cut", path, key="LICENSE") as caught:
            read()
        assert f" {limit:,}" in str(caught.value)
    tar = pack(tmp_path / "a.tar", [("1.wav", b"1")], "w:").read_bytes()
    path.write_bytes(gzip.compress(tar + bytes(2_000_000)))
    limit = max(100_000, archives.MAX_UNPACKED_RATIO * path.stat().st_size)
    with refused(TaskError, "too-large", path) as caught:
        list_archive(path)
    assert f" {limit:,}" in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_headers_that_claim_too_much_are_refused(tmp_path, kind, name):
    info = tarfile.TarInfo("1.wav")
    info.size, info.type = 2**40, kind
    header = info.tobuf(tarfile.GNU_FORMAT) + bytes(2_000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(header) if name == "a.tgz" else header)
    assert find_damage(path) == ("cut" if kind == tarfile.REGTYPE else "too-large")


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 1_535), value=st.binary(min_size=1, max_size=12))
def test_hostile_headers_do_no_harm(tmp_path_factory, position, value):
    info = tarfile.TarInfo("1.wav")
    info.size, info.pax_headers = 3, {"comment": "x" * 20}
    data = bytearray(info.tobuf(tarfile.PAX_FORMAT) + b"abc" + bytes(509 + 1_024))
    data[position : position + len(value)] = value
    for start in range(0, 1_536, 512):  # a header counts only with its checksum
        header = data[start : start + 512]
        header[148:156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    path = tmp_path_factory.getbasetemp() / "hostile.tar"
    path.write_bytes(data)
    with contextlib.suppress(TaskError):  # nothing else is raised
        assert all(isinstance(name, str) for name in list_archive(path))


def test_endless_headers_do_no_harm(tmp_path):
    info = tarfile.TarInfo("1.wav")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) * 20_000))
    with refused(TaskError, "too-large", path):
        list_archive(path)
