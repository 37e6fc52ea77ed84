"""Audio files: of absurd sizes, of codecs off the list, damaged, or no files at all."""

import io
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from tests.slow.hostile.case import NAMED, REFUSED, Case, Made, damaged, files, link, pipe, put

RATE = 16_000
EMBED = "embed {} -o out --model {{model}} --device cpu --workers 1"
VIEWS = "views {} out/views.png"
PREPARE = "prepare {} out --workers 1 --clip-timeout 10 --clip-memory 1"


def embedding(path: str) -> str:
    return EMBED.format(path)


def packing(path: str) -> str:
    return PREPARE.format(path)


def encode(**form: str) -> bytes:
    """A second of noise."""
    file = io.BytesIO()
    rate = 8_000 if form.get("subtype") == "GSM610" else RATE
    soundfile.write(file, np.random.default_rng(1).normal(0, 0.1, rate), rate, **form)
    return file.getvalue()


def wav(
    *, channels: int = 1, rate: int = RATE, bits: int = 16, tag: int = 1, size: int | None = None
) -> bytes:
    """A RIFF of 4,000 bytes of sound, whatever it says of them."""
    block = max(channels * bits // 8, 1) & 0xFFFF
    form = struct.pack("<HHIIHH", tag, channels, rate, (rate * block) & 0xFFFFFFFF, block, bits)
    stated = 4_000 if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", stated)
    return (
        b"RIFF"
        + struct.pack("<I", (len(body) + stated) & 0xFFFFFFFF)
        + body
        + bytes(range(250)) * 16
    )


def flac_of(samples: int) -> bytes:
    """A FLAC that says it has so many samples."""
    data = bytearray(encode(format="FLAC", subtype="PCM_16"))
    # STREAMINFO: the 36 bits behind rate, channels and depth.
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def _ogg_that_ends_at(granule: int) -> bytes:
    data = bytearray(encode(format="OGG", subtype="VORBIS"))
    last = data.rfind(b"OggS")
    data[last + 6 : last + 14] = granule.to_bytes(8, "little", signed=True)
    return bytes(data)


def _aiff(kind: bytes, codec: bytes) -> bytes:
    """An AIFF or AIFF-C whose COMM names a codec."""
    comm = struct.pack(">hIh", 1, 2_000, 16) + b"\x40\x0c\xfa\0\0\0\0\0\0\0" + codec + b"\0\0"
    sound = struct.pack(">II", 0, 0) + bytes(range(250)) * 16
    body = kind + b"COMM" + struct.pack(">I", len(comm)) + comm
    body += b"SSND" + struct.pack(">I", len(sound)) + sound
    return b"FORM" + struct.pack(">I", len(body)) + body


def _sph(fields: str) -> bytes:
    header = f"NIST_1A\n   1024\n{fields}\nend_head\n".encode()
    return header.ljust(1024) + bytes(4_000)


def _rf64(size: int) -> bytes:
    data = bytearray(encode(format="RF64", subtype="PCM_16"))
    place = data.find(b"ds64") + 8
    data[place : place + 24] = struct.pack("<QQQ", size, size, size // 2)
    return bytes(data)


CONTENTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a FLAC of 2**36 - 1 samples": (".flac", lambda: flac_of(2**36 - 1)),
    "a FLAC of 2**34 samples": (".flac", lambda: flac_of(2**34)),
    "a wav of 65,535 channels": (".wav", lambda: wav(channels=65_535)),
    "a wav of 9 channels": (".wav", lambda: wav(channels=9)),
    "a wav of no channel": (".wav", lambda: wav(channels=0)),
    "a wav of 4 GHz": (".wav", lambda: wav(rate=2**32 - 1)),
    "a wav of 0 Hz": (".wav", lambda: wav(rate=0)),
    "a wav of no bits": (".wav", lambda: wav(bits=0)),
    "a wav of a foreign tag": (".wav", lambda: wav(tag=0x161)),
    "a wav that says 4 GB": (".wav", lambda: wav(size=2**32 - 1)),
    "an RF64 of 2**63 bytes": (".wav", lambda: _rf64(2**63 - 2)),
    "chunks of no size": (".wav", lambda: wav()[:12] + b"junk\0\0\0\0" * 500_000 + wav()[12:]),
    "a chunk of 4 GB": (".wav", lambda: wav()[:12] + b"LIST\xff\xff\xff\xff" + wav()[12:]),
    "GSM in a wav": (".wav", lambda: encode(format="WAV", subtype="GSM610")),
    "IMA ADPCM in a wav": (".wav", lambda: encode(format="WAV", subtype="IMA_ADPCM")),
    "IMA ADPCM in an AIFF-C": (".aiff", lambda: _aiff(b"AIFC", b"ima4")),
    "IMA ADPCM in an AIFF-C that says AIFF": (".aiff", lambda: _aiff(b"AIFF", b"ima4")),
    "GSM in an AIFF-C that says AIFF": (".aiff", lambda: _aiff(b"AIFF", b"GSM ")),
    "DWVW in an AIFF-C that says AIFF": (".aiff", lambda: _aiff(b"AIFF", b"DWVW")),
    "an Ogg that ends at 2**62": (".ogg", lambda: _ogg_that_ends_at(2**62)),
    "an Ogg that ends before it begins": (".ogg", lambda: _ogg_that_ends_at(-2)),
    "an ID3 tag of 256 MB": (".mp3", lambda: b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(5_000)),
    "ID3 tags without end": (".mp3", lambda: b"ID3\3\0\0\0\0\0\0" * 400_000),
    "MP3 syncs without sound": (".mp3", lambda: b"\xff\xfb\x90\0" * 100_000),
    "an AU whose sound begins at 4 GB": (
        ".au",
        lambda: b".snd" + struct.pack(">5I", 2**32 - 1, 2**32 - 1, 3, RATE, 1) + bytes(4_000),
    ),
    "a CAF of an endless chunk": (
        ".caf",
        lambda: b"caff\0\1\0\0free" + struct.pack(">q", 2**62) + bytes(4_000),
    ),
    "a W64 of 2**63 bytes": (
        ".w64",
        lambda: (
            (data := encode(format="W64", subtype="PCM_16"))[:16]
            + struct.pack("<Q", 2**63 - 1)
            + data[24:]
        ),
    ),
    "a sph of 10**14 samples": (
        ".sph",
        lambda: _sph(f"sample_count -i {10**14}\nsample_rate -i 16000\nchannel_count -i 1"),
    ),
    "a sph that says so twice": (".sph", lambda: _sph("sample_count -i -1\nsample_count -i x")),
    "nothing": (".wav", lambda: b""),
    "a byte": (".flac", lambda: b"f"),
    "text": (".wav", lambda: b"\x1b[31mroot:x:0:0\n" * 300),
    "a page of HTML": (".mp3", lambda: b"<html><script>owned()</script></html>" * 50),
}


def _places() -> dict[str, Callable[[Path, Made], object]]:
    def directory(place: Path, _: Made) -> None:
        (place / "in" / "x.wav").mkdir()

    def listening(place: Path, _: Made) -> None:
        with socket.socket(socket.AF_UNIX) as unix:
            before = os.open(".", os.O_RDONLY)
            os.chdir(place / "in")  # the name of a socket is short
            unix.bind("x.wav")
            os.fchdir(before)
            os.close(before)

    return {
        "a FIFO": lambda place, _: pipe(place / "in" / "x.wav"),
        "a socket": listening,
        "a folder of a file's name": directory,
        "a link to an endless device": lambda place, _: link(place / "in/x.wav", "/dev/zero"),
        "a link to a terminal": lambda place, _: link(place / "in/x.wav", "/dev/tty"),
        "a link to itself": lambda place, _: link(place / "in/x.wav", "x.wav"),
        "a link to text": lambda place, _: link(place / "in/x.wav", "../around/victim.txt"),
    }


_AS_LONG_AS_IT_IS = {"a wav that says 4 GB", "a W64 of 2**63 bytes"}


def _sparse(place: Path, _: Made) -> None:
    put(place / "in/x.wav", wav(size=2**32 - 2**20))
    os.truncate(place / "in/x.wav", 2**32 - 2**20)


def cases() -> Iterator[Case]:
    for number, (name, (suffix, make)) in enumerate(CONTENTS.items()):
        path = f"in/x{suffix}"
        commands = [embedding(path)] if number % 2 else [VIEWS.format(path)]
        if name.startswith(("a FLAC", "an Ogg", "DWVW", "chunks", "ID3 tags", "a sph of")):
            commands = [f"{embedding(path)} --frames", packing("in")]
        # What is written in one go says its size so, and an Ogg's pages say what it has.
        statuses = NAMED if "Ogg" in name or name in _AS_LONG_AS_IT_IS else REFUSED
        lay = lambda p, m, n=path, f=make: put(p / n, f())  # noqa: E731
        yield Case("audio", name, tuple(commands), lay, statuses, check=_short)
    yield Case("audio", "an hour, and more", (packing("in"),), _sparse)
    for number, (name, make_place) in enumerate(_places().items()):
        commands = (embedding(("in", "in/x.wav")[number % 2]),)
        yield Case("audio", name, commands, make_place)
    forms = (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"))
    for number in range(4):
        form, subtype = forms[number % 4]
        case = f"{form} {subtype}, damaged {number}"

        def break_it(place: Path, made: Made, form=form, subtype=subtype, case=case) -> None:
            data = damaged(encode(format=form, subtype=subtype), made.random(case), most=400)
            put(place / f"in/x.{form.lower()}", data)

        yield Case("audio", case, (embedding("in"),), break_it, NAMED)
    yield Case("audio", "LOUD and null", (VIEWS.format("in/x.wav"),), files({"x.wav": _loud()}))


def _short(place: Path) -> str | None:
    """Check that no embedded clip is longer than the second of sound in the file."""
    index = place / "out/index.csv"
    rows = index.read_text().splitlines()[1:] if index.exists() else []
    long = [row for row in rows if not float(row.split(",")[2]) < 60]
    return f"index.csv has {long[0]}" if long else None


def _loud() -> bytes:
    file = io.BytesIO()
    sound = np.random.default_rng(0).normal(0, 1, RATE).astype(np.float32)
    sound[::7], sound[3] = np.inf, np.nan
    soundfile.write(file, sound, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()
