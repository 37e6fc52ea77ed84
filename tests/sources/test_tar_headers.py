"""Members of tars in all the forms that tarfile writes; broken and hostile headers are damage."""

import contextlib
import io
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.errors import Code
from byola_rq.sources.tar_headers import MAX_HEADER_BYTES, Member, TarDamage, walk_members
from tests.refusal import refused

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]

# Short, around the 100 bytes of a header's name, with folders for ustar's prefix, and long.
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]),
    min_size=1,
    max_size=70,
)
paths = st.lists(names, min_size=1, max_size=5).map("/".join)
members = st.lists(st.tuples(paths, st.integers(0, 3000)), max_size=6)


def write_tar(path: Path, content: list[tuple[str, int]], form: int) -> list[tuple[str, int, str]]:
    """Write a tar; return the members written: ustar has no room for some names."""
    written = []
    with tarfile.open(path, "w", format=form) as tar:
        for number, (name, size) in enumerate(content):
            member = tarfile.TarInfo(name)
            member.size = size
            member.mtime = 1.5 * number  # a pax record of its own
            data = bytes([len(written) + 1]) * size
            try:
                tar.addfile(member, io.BytesIO(data))
            except ValueError:
                continue
            written.append((name, size, "file"))
    return written


def walk(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(walk_members(file, path.stat().st_size))


@given(content=members, form=st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None)
def test_members_are_those_that_were_written(content: list[tuple[str, int]], form: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        written = write_tar(path, content, form)
        found = walk(path)
        data = path.read_bytes()
    assert [(name, size, "file") for name, _, size, _ in found] == written
    for number, member in enumerate(found, start=1):
        assert data[member.offset :][: member.size].strip(bytes([number])) == b""


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
        header = member.tobuf(form)
        assert next(walk_members(io.BytesIO(header), 10 << 30)).size == 9 << 30
        with refused(TarDamage, "cut", key="a.wav", value=len(header) + (9 << 30)):
            next(walk_members(io.BytesIO(header), 9 << 30))


def test_sparse_members_are_reported_and_stepped_over(tmp_path: Path) -> None:
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
        Member("sparse.wav", 1536, 0, "sparse"),
        Member("after.wav", 2560, 0, "file"),
    ]
    member = tarfile.TarInfo("GNUSparseFile.0/new.wav")
    member.size = 512 + 8  # the map of one part at byte 0, then its 8 bytes
    member.pax_headers = {
        f"GNU.sparse.{key}": value
        for key, value in {"major": "1", "minor": "0", "name": "new.wav", "realsize": "99"}.items()
    }
    header = member.tobuf(tarfile.PAX_FORMAT)
    data = b"1\n0\n8\n".ljust(512, b"\0") + b"8 bytes.".ljust(512, b"\0") + after
    (tmp_path / "a.tar").write_bytes(header + data + bytes(1024))
    assert [(each.name, each.kind) for each in walk(tmp_path / "a.tar")] == [
        ("new.wav", "sparse"),
        ("after.wav", "file"),
    ]


def test_old_writers_summed_signed_bytes(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("é.wav").tobuf(tarfile.GNU_FORMAT))
    unsigned = int(header[148:154], 8)
    header[148:154] = b"%06o" % (unsigned - 256 * sum(byte > 127 for byte in header))
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    assert [each.name for each in walk(tmp_path / "a.tar")] == ["é.wav"]


@pytest.mark.parametrize(
    ("change", "code", "facts"),
    [
        (lambda data: b"", "foreign", {"value": 0}),
        (lambda data: data[:100], "foreign", {"value": 100}),
        (lambda data: b"x" * 2000, "foreign", {"value": None}),
        (lambda data: data[:2048], "cut", {"key": "end mark"}),
        (lambda data: data[:1400], "cut", {"key": None, "value": 1024}),
        (lambda data: data[:1100] + b"!" + data[1101:], "damaged", {"value": 1024}),
    ],
)
def test_damage_is_reported_with_its_place(
    tmp_path: Path, change, code: Code, facts: dict[str, object]
) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [("a.wav", 10), ("b.wav", 10)], tarfile.GNU_FORMAT)
    path.write_bytes(change(path.read_bytes()))
    with refused(TarDamage, code, **facts):
        walk(path)


def write_with_extension(path: Path, kind: bytes, size: int, content: bytes = b"") -> None:
    """A tar of one member, a.wav, that has an extended header before its own."""
    extension = tarfile.TarInfo("extension")
    extension.type = kind
    extension.size = size
    padding = bytes(-len(content) % 512)
    header = extension.tobuf(tarfile.GNU_FORMAT) + content + padding
    path.write_bytes(header + tarfile.TarInfo("a.wav").tobuf() + bytes(1024))


@pytest.mark.parametrize("size", [MAX_HEADER_BYTES, 1 << 40, -512, -(1 << 40)])
@pytest.mark.parametrize(
    "kind",
    [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK],
)
def test_an_extension_cannot_fill_memory_or_lead_back(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    content = bytes(max(0, min(size, MAX_HEADER_BYTES)))
    write_with_extension(tmp_path / "a.tar", kind, size, content)
    with pytest.raises(TarDamage):
        walk(tmp_path / "a.tar")


def test_a_member_cannot_lead_back(tmp_path: Path) -> None:
    first, member = tarfile.TarInfo("a.wav").tobuf(), tarfile.TarInfo("b.wav")
    member.size = -1024
    data = first + member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    found = walk_members(io.BytesIO(data), len(data))
    assert next(found).name == "a.wav"
    with refused(TarDamage, "cut", key="b.wav"):
        next(found)


@pytest.mark.parametrize("unit", [b"1", b"2 "])
def test_a_pax_header_takes_little_time_and_memory(tmp_path: Path, unit: bytes) -> None:
    """Some versions of Python take the square of its length for each of these."""
    content = (unit * MAX_HEADER_BYTES)[: MAX_HEADER_BYTES - 2048] + b"=\n"
    write_with_extension(tmp_path / "a.tar", tarfile.XHDTYPE, len(content), content)
    tracemalloc.start()
    try:
        with contextlib.suppress(TarDamage):
            walk(tmp_path / "a.tar")
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


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
        assert all(each.size >= 0 for each in found)
