"""Cut files are found, whole ones never called cut, hostile ones do no harm."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from byola_rq.audio.io import EncodedAudio, inspect_audio
from byola_rq.audio.truncation import find_truncation
from byola_rq.errors import AudioError

RATE = 16_000
# (format, subtype, further arguments of the writer, bytes whose loss may go unseen: the tolerance
# and a padding byte)
WRITTEN = {
    "wav": ("WAV", "PCM_16", {}, 64),
    "wav, odd": ("WAV", "PCM_U8", {}, 65),
    "wav, extensible": ("WAVEX", "PCM_24", {}, 65),
    "wav, 64 bit": ("RF64", "PCM_16", {}, 64),
    "aiff": ("AIFF", "PCM_16", {}, 64),
    "aifc": ("AIFF", "FLOAT", {}, 64),
    "au": ("AU", "PCM_16", {}, 64),
    "caf": ("CAF", "PCM_16", {}, 64),
    "w64": ("W64", "PCM_16", {}, 64),
    "nist": ("NIST", "PCM_16", {}, 64),
    "flac": ("FLAC", "PCM_16", {}, 0),
    "vorbis": ("OGG", "VORBIS", {}, 0),
    "opus": ("OGG", "OPUS", {}, 0),
    "mp3, constant": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT"}, 0),
    "mp3, variable": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "VARIABLE"}, 0),
}


def encode(kind: str, num_samples: int = 20_001, num_channels: int = 1, rate: int = RATE) -> bytes:
    name, subtype, arguments, _ = WRITTEN[kind]
    if arguments:
        arguments = {**arguments, "compression_level": 0.5}
    noise = np.random.default_rng(num_samples).normal(0, 0.1, (num_samples, num_channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, subtype, format=name, **arguments)
    return file.getvalue()


def truncation(data: bytes) -> str | None:
    return find_truncation(io.BytesIO(data))


def is_cut(path: Path) -> bool:
    with path.open("rb") as file:
        return find_truncation(file) is not None


def is_refused(data: bytes) -> bool:
    try:
        inspect_audio(EncodedAudio("a sound", data))
    except AudioError:
        return True
    return False


ENCODED = {kind: encode(kind) for kind in WRITTEN}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("rate", [8_000, 48_000])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("num_samples", [1, 1_000, 30_000])
def test_whole_files_are_whole(kind, rate, num_channels, num_samples):
    assert truncation(encode(kind, num_samples, num_channels, rate)) is None


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(WRITTEN)), share=st.floats(0, 1))
def test_every_cut_is_found(kind, share):
    data, unseen = ENCODED[kind], WRITTEN[kind][-1]
    left = data[: int(share * (len(data) - 1 - unseen))]
    assert truncation(left) is not None or is_refused(left)


@pytest.mark.parametrize("kind", WRITTEN)
def test_cuts_near_the_end_are_found(kind):
    data, unseen = ENCODED[kind], WRITTEN[kind][-1]
    for cut in range(unseen + 1, 160):
        assert truncation(data[:-cut]).startswith("cut short: "), cut


def test_libsndfile_alone_does_not_see_it():
    """The reason for the module: if this fails, some of it can go."""
    for kind in ("wav", "vorbis", "mp3, constant"):
        data = encode(kind, 100_000)
        cut = data[: len(data) * 3 // 4]
        frames, _ = soundfile.read(io.BytesIO(cut))
        assert 0 < len(frames) < 100_000
        assert truncation(cut) is not None


def test_the_reason_has_figures():
    reason = "cut short: 1500 of 2000 bytes of its sound data are there"
    assert truncation(encode("wav", 1_000)[:-500]) == reason
    mp3 = encode("mp3, constant")
    assert "of 37 MP3 frames are there" in truncation(mp3[:-500])
    assert truncation(encode("wav")[:30]) == "cut short: it ends within its header"


@pytest.mark.parametrize("data", [b"", b"RI", b"some text\n" * 100, b"ID3", b"\0" * 4_000])
def test_what_is_no_sound_is_not_called_cut(data):
    assert truncation(data) is None


def riff(*chunks: bytes, kind: bytes = b"RIFF", size: int = 0) -> bytes:
    return kind + struct.pack("<I", size) + b"WAVE" + b"".join(chunks)


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return (
        name
        + struct.pack("<I", len(data) if size is None else size)
        + data
        + b"\0" * (len(data) % 2)
    )


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**32 - 37, 2**31 - 1, 0x7FFFF000, 2**31])
def test_sizes_of_streaming_encoders_tell_nothing(size):
    assert truncation(riff(chunk(b"data", bytes(1_000), size))) is None
    assert truncation(b".snd" + struct.pack(">5I", 24, size, 3, RATE, 1) + bytes(900)) is None


def test_chunks_around_the_data():
    before, after = chunk(b"LIST", b"odd"), chunk(b"id3 ", bytes(300))
    data = bytes(2_001)
    whole = riff(before, chunk(b"data", data), after)
    assert truncation(whole) is None
    assert truncation(whole[:-250]) is None  # the sound is all there
    assert truncation(riff(before, chunk(b"data", data)[:-200])) is not None
    assert truncation(riff(before)) == "cut short: it ends within its header"
    assert truncation(riff(chunk(b"LIST", b"", 2**32 - 1), chunk(b"data", data))) is not None


def test_the_64_bit_size_counts():
    sizes = chunk(b"ds64", struct.pack("<3QI", 0, 5_000, 0, 0))
    full, short = (chunk(b"data", bytes(n), 2**32 - 1) for n in (5_000, 4_000))
    assert truncation(riff(sizes, full, kind=b"RF64")) is None
    assert truncation(riff(sizes, short, kind=b"RF64")) is not None


def test_a_flac_of_unstated_length_tells_nothing():
    data = bytearray(encode("flac", 200_000))
    # Behind the marker and the block's header: 10 bytes of sizes, then 28 bits, then the length.
    stated = int.from_bytes(data[18:26], "big")
    assert stated & (2**36 - 1) == 200_000
    data[18:26] = (stated >> 36 << 36).to_bytes(8, "big")
    assert truncation(bytes(data)) is None


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_cut_between_pages(kind):
    data = encode(kind, 200_000)
    pages = [position for position in range(1, len(data)) if data.startswith(b"OggS\0", position)]
    assert len(pages) > 3
    for page in pages:
        assert truncation(data[:page]) == "cut short: its last Ogg page does not end the stream"


def test_ogg_streams_one_behind_the_other():
    first, second = encode("vorbis", 9_000), encode("opus", 9_000)
    assert truncation(first + second) is None
    assert truncation(first + second[:-300]) is not None
    assert truncation(first + bytes(200)) is None  # padding behind the end
    assert truncation(first + bytes(70_000)) == "cut short: no Ogg page at its end"


ID3 = b"ID3\4\0\0" + bytes([0, 0, 7, 104]) + bytes(1_000)


@pytest.mark.parametrize("kind", ["mp3, constant", "mp3, variable", "flac"])
def test_tags_before_the_sound(kind):
    data = encode(kind)
    assert truncation(ID3 + data) is None
    assert truncation(ID3 + ID3 + data) is None
    assert truncation(ID3 + data[:-700]) is not None
    assert truncation(ID3[:-5]) == "cut short: it ends within its header"


def change_xing(data: bytes, frames: int = 0, num_bytes: int = 0, flags: int = 15) -> bytes:
    """The file with other counts: its own, moved by so many."""
    start = max(data.find(b"Xing"), data.find(b"Info")) + 4
    _, own_frames, own_bytes = struct.unpack(">3I", data[start : start + 12])
    counts = struct.pack(">3I", flags, own_frames + frames, own_bytes + num_bytes)
    return data[:start] + counts + data[start + 12 :]


def test_mp3_counts_that_encoders_disagree_on():
    data = encode("mp3, variable", 60_000)
    tag = b"TAG" + bytes(125)
    assert truncation(data + tag) is None
    assert truncation(change_xing(data, num_bytes=500)) is None  # the tags counted as stream
    assert truncation(change_xing(data, frames=2, num_bytes=500)) is not None
    # Without a count of bytes, the frames decide; the header's own may be counted as one.
    assert truncation(change_xing(data, frames=1, flags=13)) is None
    assert truncation(change_xing(data, frames=2, flags=13)) is not None
    assert truncation(change_xing(data, flags=0)[:-900]) is None  # it counts nothing


def test_mp3_with_junk_between_frames():
    data = change_xing(encode("mp3, constant", 60_000), flags=13)
    last = data.rfind(data[:4])  # at a constant rate, every frame begins alike
    before_last = data.rfind(data[:4], 0, last)
    junk = b"\xff\xf3\xf0junk" * 50  # two bytes that begin a frame, a third that makes it none
    assert truncation(data[:last] + junk + data[last:]) is None
    assert truncation(data[:last] + junk) is None  # one frame: within the tolerance
    assert truncation(data[:before_last] + junk) is not None


MAGIC = (
    b"RIFF\0\0\0\0WAVE",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"FORM\0\0\0\0AIFF",
    b".snd",
    b"OggS\0",
    b"fLaC\0\0\0\x22",
    b"ID3\4\0\0\0\0\0\0",
    b"\xff\xfb\x90\x64" + bytes(32) + b"Xing\0\0\0\1\x7f\xff\xff\xff",
)


@settings(max_examples=300, deadline=None)
@given(magic=st.sampled_from(MAGIC), data=st.binary(max_size=400), repeats=st.integers(1, 50))
def test_hostile_bytes_do_no_harm(magic, data, repeats):
    assert isinstance(truncation(magic + data * repeats), str | None)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(WRITTEN)), where=st.integers(0, 200), value=st.binary(max_size=8)
)
@example(kind="nist", where=74, value=b"\xb2")  # in Latin-1 a digit that is no number
def test_changed_headers_do_no_harm(kind, where, value):
    data = bytearray(ENCODED[kind])
    data[where : where + len(value)] = value
    assert isinstance(truncation(bytes(data)), str | None)


@pytest.mark.parametrize(
    "data",
    [
        riff(bytes(8_000_000)),  # a million empty chunks
        MAGIC[-1] + b"\xff\xfb" * 2_000_000,  # what looks like frames everywhere
        ID3[:6] + bytes(2_000_000),
        (b"ID3" + bytes(7)) * 200_000,
    ],
    ids=["chunks", "frames", "zeros", "tags"],
)
def test_large_hostile_files_do_no_harm(data):
    assert isinstance(truncation(data), str | None)  # a walk of every byte would take very long


def test_real_recordings_are_whole(recordings):
    paths = sorted(p for kind in ("*.ogg", "*.flac") for p in recordings.rglob(kind))
    assert len(paths) > 1_000
    assert [path for path in paths if is_cut(path)] == []
    for path in paths[::100]:
        data = path.read_bytes()
        for share in (0.3, 0.9, 0.999):
            assert truncation(data[: int(share * len(data))]) is not None, path
