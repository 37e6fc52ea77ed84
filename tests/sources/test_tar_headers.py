"""Tar headers against tarfile, which writes and reads all the forms; broken ones by their place."""

import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.sources.tar_headers import HeaderReader, Member, TarDamage, walk_members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]

# Short, around the 100 bytes of a header's name, with folders for ustar's prefix, and long.
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]),
    min_size=1,
    max_size=70,
)
paths = st.lists(names, min_size=1, max_size=5).map("/".join)
members = st.lists(st.tuples(paths, st.integers(0, 3000)), max_size=6)


def write_tar(path: Path, content: list[tuple[str, int]], form: int) -> list[tuple[str, int]]:
    """What could be written: ustar has no room for some names."""
    written = []
    with tarfile.open(path, "w", format=form) as tar:
        for number, (name, size) in enumerate(content):
            member = tarfile.TarInfo(name)
            member.size = size
            member.mtime = 1.5 * number  # a pax record of its own
            data = bytes([number + 1]) * size
            try:
                tar.addfile(member, io.BytesIO(data))
            except ValueError:
                continue
            written.append((name, size))
    return written


def walk(path: Path) -> list[Member]:
    with HeaderReader(str(path)) as tar:
        return list(walk_members(tar))


@given(content=members, form=st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None)
def test_members_are_those_of_tarfile(content: list[tuple[str, int]], form: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        written = write_tar(path, content, form)
        found = walk(path)
        with tarfile.open(path) as tar:
            expected = [
                (each.name, each.offset_data, each.size)
                for each in tar.getmembers()
                if each.isreg()
            ]
    assert len(written) == len(found)
    # tarfile drops a slash at the end; such names are folders' to it.
    assert [(name.rstrip("/"), offset, size) for name, offset, size, _ in found] == expected


def test_members_without_data_are_stepped_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}{'x' * 120}")
            member.type = kind
            member.linkname = "y" * 150
            tar.addfile(member)
        member = tarfile.TarInfo("b.wav")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"sound"))
    found = walk(tmp_path / "a.tar")
    assert [(each.name[0], each.kind) for each in found] == [
        ("2", "link"),
        ("1", "link"),
        ("b", "file"),
    ]
    data = (tmp_path / "a.tar").read_bytes()
    assert data[found[-1].offset :][:5] == b"sound"


def test_sizes_that_octal_digits_cannot_hold(tmp_path: Path) -> None:
    """Base 256 of GNU and the decimal record of pax, of a member of 9 GiB that is not there."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("a.wav")
        member.size = 9 << 30
        (tmp_path / "a.tar").write_bytes(member.tobuf(form))
        with HeaderReader(str(tmp_path / "a.tar")) as tar:
            assert next(walk_members(tar)).size == 9 << 30


def test_sparse_members_are_told_and_stepped_over(tmp_path: Path) -> None:
    """GNU's old form: a header with a map, blocks that continue it, then the data."""
    header = bytearray(tarfile.TarInfo("sparse.wav").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"00000000010\0"
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    maps = bytearray(1024)
    maps[504] = 1  # one more follows the first
    after = tarfile.TarInfo("after.wav").tobuf(tarfile.GNU_FORMAT)
    data = bytes(header) + maps + b"8 bytes." + bytes(504) + after + bytes(1024)
    (tmp_path / "a.tar").write_bytes(data)
    assert walk(tmp_path / "a.tar") == [
        Member("sparse.wav", 1536, 8, "sparse"),
        Member("after.wav", 2560, 0, "file"),
    ]
    member = tarfile.TarInfo("new.wav")
    member.pax_headers = {"GNU.sparse.major": "1"}
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    assert [each.kind for each in walk(tmp_path / "a.tar")] == ["sparse"]


def test_old_writers_summed_signed_bytes(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("é.wav").tobuf(tarfile.GNU_FORMAT))
    unsigned = int(header[148:154], 8)
    header[148:154] = b"%06o" % (unsigned - 256 * sum(byte > 127 for byte in header))
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    assert [each.name for each in walk(tmp_path / "a.tar")] == ["é.wav"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"", "the file is empty"),
        (lambda data: data[:100], "not a tar .shorter than a header"),
        (lambda data: b"x" * 2000, "not a tar .its first header has a wrong checksum"),
        (lambda data: b"\x1f\x8b" + data, "the tar is compressed"),
        (lambda data: data[:2048], "the tar has no end mark"),
        (lambda data: data[:1400], "the tar is cut in the header at byte 1024"),
        (lambda data: data[:1100] + b"!" + data[1101:], "the header at byte 1024 is broken"),
        (lambda data: data + data, "17920 bytes behind the end mark at byte .* are not read"),
    ],
)
def test_damage_is_told_by_its_place(tmp_path: Path, change, reason: str) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [("a.wav", 10), ("b.wav", 10)], tarfile.GNU_FORMAT)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TarDamage, match=reason):
        walk(path)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (b"20 path=a\n", "the pax header at byte 0 is broken"),
        (b"path=a\n", "the pax header at byte 0 is broken"),
        (b"13 size=12x4\n", "broken size; got '12x4'"),
        (b"99999999999 path=a\n", "the pax header at byte 0 is broken"),
    ],
)
def test_broken_pax_records_are_damage(tmp_path: Path, records: bytes, reason: str) -> None:
    member = tarfile.TarInfo("pax")
    member.type = tarfile.XHDTYPE
    member.size = len(records)
    data = member.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(data + tarfile.TarInfo("a.wav").tobuf() + bytes(1024))
    with pytest.raises(TarDamage, match=reason):
        walk(tmp_path / "a.tar")


def test_an_extension_cannot_fill_memory(tmp_path: Path) -> None:
    member = tarfile.TarInfo("pax")
    member.type = tarfile.GNUTYPE_LONGNAME
    member.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(TarDamage, match="must have at most 1048576 bytes; got 1099511627776"):
        walk(tmp_path / "a.tar")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_broken_ends_in_damage_or_members(data: st.DataObject) -> None:
    """Bytes changed anywhere, also with the checksums made right again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        form = data.draw(st.sampled_from(FORMATS))
        write_tar(path, [("a.wav", 600), ("n" * 120, 10), ("b.wav", 5)], form)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, 4095))
            content[place] = data.draw(st.integers(0, 255))
            block = place // 512 * 512
            if data.draw(st.booleans()):
                content[block + 148 : block + 156] = b" " * 8
                checksum = b"%06o\0 " % sum(content[block : block + 512])
                content[block + 148 : block + 156] = checksum
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            found = walk(path)
        except TarDamage:
            return
        # Members lie one behind the other, whatever the headers say.
        ends = [0, *(each.offset + each.size for each in found)]
        assert all(each.offset >= end for each, end in zip(found, ends, strict=False))
