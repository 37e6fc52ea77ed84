"""Files that PyAV decodes: as any other through the one way in, whole, in parts, damaged."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from byola_rq.audio import codecs, multimedia
from byola_rq.audio.codecs import identify_codec
from byola_rq.audio.io import AUDIO_SUFFIXES, EncodedAudio, inspect_audio, read_audio
from byola_rq.audio.multimedia import SUFFIXES, find_track
from byola_rq.errors import AudioError
from byola_rq.packing.decode import ClipJob, ClipRules, decode_clip, decode_clips
from byola_rq.runtime.sandbox import Limits
from byola_rq.sources.clip_source import ClipSource
from byola_rq.sources.listing import list_sources
from tests.multimedia import FORMS, encode
from tests.refusal import refused

LOSSLESS = ("alac", "mp4 with flac", "mka")
FRAME = 1024  # frames that an encoder may put before and behind the sound, twice


def tones(seconds: float, rate: int) -> np.ndarray:
    """A sweep on the left, a tone on the right, a step up every second: each place is told."""
    time = np.arange(int(seconds * rate)) / rate
    level = 0.05 + 0.2 * (np.floor(time) % 3)
    left = np.sin(2 * np.pi * (200 + 40 * time) * time)
    return (level * np.stack([left, np.sin(2 * np.pi * 440 * time)])).T


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def best_match(read: torch.Tensor, sound: torch.Tensor) -> float:
    """Likeness of the sound and what was read, wherever within the encoder's delay it begins."""
    num_later = len(read) - len(sound)
    return max(correlation(read[first:][: len(sound)], sound) for first in range(num_later + 1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_whole_files_are_their_sound(tmp_path: Path, form: str, num_channels: int) -> None:
    rate = 48_000
    sound = tones(1.5, rate)[:, :num_channels]
    path = write(tmp_path / f"a{FORMS[form][2]}", encode(form, sound, rate))
    info = inspect_audio(path)
    assert (info.sample_rate, info.num_channels) == (rate, num_channels)
    read = read_audio(path, rate)
    assert len(read) == info.num_samples
    expected = torch.from_numpy(sound.mean(axis=1)).float()
    if form in LOSSLESS:
        bits = 16 if form != "alac" else 24
        torch.testing.assert_close(read, expected, rtol=0, atol=2.0 ** (1 - bits))
    else:
        assert 0 <= len(read) - len(sound) <= 3 * FRAME
        assert best_match(read, expected) > 0.99
    encoded = EncodedAudio("s.tar::a", path.read_bytes())
    assert torch.equal(read_audio(encoded, rate), read)


@pytest.mark.parametrize("form", FORMS)
def test_a_part_is_that_of_the_whole(tmp_path: Path, form: str) -> None:
    rate = 48_000
    path = write(tmp_path / "a", encode(form, tones(8, rate), rate))
    whole = read_audio(path, rate)
    resampled = read_audio(path, 16_000)
    # AAC fills bands with noise that it draws as it goes; all else is decoded to the same.
    atol = 0.02 if "aac" in FORMS[form] else 1e-6
    for start in (0, 10, rate // 2, 3 * rate + 77, len(whole) - 500):
        part = read_audio(path, rate, start, 1_000)
        torch.testing.assert_close(part, whole[start : start + 1_000], rtol=0, atol=atol)
    part = read_audio(path, 16_000, 5 * 16_000, 2_000)
    torch.testing.assert_close(part, resampled[80_000:82_000], rtol=0, atol=max(atol, 1e-3))


def test_a_part_is_read_by_a_seek(tmp_path: Path) -> None:
    """Decode parts behind the middle of a file, which was damaged after the file was inspected."""
    rate = 16_000
    data = bytearray(encode("mka", tones(60, rate), rate))
    path = write(tmp_path / "a.mka", bytes(data))
    whole, track = read_audio(path, rate), find_track(path.open("rb"), "matroska")
    assert 55 <= len(track.places) <= 61
    assert track.num_frames == 60 * rate
    middle = slice(len(data) // 4, len(data) // 2)
    data[middle] = bytes(len(data[middle]))
    path.write_bytes(data)
    with path.open("rb") as file:
        sound = multimedia.TrackFile(file, track)
        sound.seek(50 * rate)
        read = torch.from_numpy(sound.read(rate)).mean(dim=1)
    torch.testing.assert_close(read, whole[50 * rate : 51 * rate], rtol=0, atol=1e-6)


def test_the_sound_of_a_film_is_read(tmp_path: Path) -> None:
    """Read the sound of a film whose video codec is never opened."""
    data = encode("mp4 with flac", tones(1, 16_000), 16_000, has_picture=True)
    with av.open(str(write(tmp_path / "a.mp4", data))) as container:
        assert len(container.streams.video) == 1
    assert inspect_audio(tmp_path / "a.mp4").num_samples == 16_000


def test_other_codecs_and_files_without_sound_are_refused(tmp_path: Path) -> None:
    sound = tones(1, 48_000)
    path = write(tmp_path / "a.mka", encode("mka", sound, 48_000, codec="ac3"))
    with refused(AudioError, "unsupported", path, key="codec", value="ac3"):
        inspect_audio(path)
    data = encode("mp4 with flac", sound[:0], 48_000, has_picture=True)
    path = write(tmp_path / "a.mp4", data)
    with pytest.raises(AudioError) as caught:
        inspect_audio(path)
    assert caught.value.code == "empty"


@pytest.mark.parametrize("form", FORMS)
def test_cut_and_broken_files_are_reported(tmp_path: Path, form: str) -> None:
    data = encode(form, tones(2, 48_000), 48_000)
    for number, end in enumerate((len(data) // 2, len(data) - 200, 20)):
        path = write(tmp_path / f"{number}", data[:end])
        with pytest.raises(AudioError) as caught:
            read_audio(path, 16_000)
        assert caught.value.code in {"cut", "damaged"}, caught.value
        assert caught.value.path == path


@pytest.mark.parametrize("form", FORMS)
def test_joined_files_are_read_whole_or_refused(tmp_path: Path, form: str) -> None:
    rate = 48_000
    data = encode(form, tones(1, rate), rate)
    path = write(tmp_path / "a", data + data)
    if form in {"aac", "ogg with flac"}:  # frames or pages, one behind the other
        assert inspect_audio(path).num_samples >= 2 * rate
        return
    with refused(AudioError, "unsupported", path, key="byte", value=len(data)):
        inspect_audio(path)


def test_indexes_that_are_bombs_are_refused(tmp_path: Path) -> None:
    """FFmpeg takes 24 bytes for each sample that an index lists, and unpacks a compressed one."""
    data = encode("m4a", tones(1, 16_000), 16_000)
    place = data.index(b"stsz") + 8
    listed = data[:place] + bytes(3) + b"\1\x10\0\0\0" + data[place + 8 :]
    with refused(AudioError, "too-large", key="samples", value=2**28):
        inspect_audio(write(tmp_path / "listed.m4a", listed))
    with refused(AudioError, "too-large", key="index"):
        inspect_audio(write(tmp_path / "compressed.m4a", data.replace(b"trak", b"cmov")))
    head = encode("mka", tones(1, 16_000), 16_000).partition(b"\x18S\x80g")[0]
    with refused(AudioError, "damaged", key="byte", value=len(head)):
        inspect_audio(write(tmp_path / "zeros.mka", head + bytes(200_000)))


def test_limits_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "a.m4a", encode("m4a", tones(1, 16_000), 16_000))
    (result,) = decode_clips(
        [ClipJob(ClipSource("a", file=str(path)))],
        ClipRules(),
        num_workers=1,
        limits=Limits(),
    )
    assert len(result.samples) == len(read_audio(path, 16_000))
    with refused(AudioError, "too-large", key="length"):
        decode_clip(ClipJob(ClipSource("a", file=str(path))), ClipRules(max_seconds=0.5))


def test_folders_and_tars_list_them(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for form, (_, _, suffix) in FORMS.items():
        write(folder / f"{form}{suffix.upper()}", encode(form, tones(0.5, 48_000), 48_000))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(folder, arcname=".")
    for source in (folder, tmp_path / "s.tar"):
        listing = list_sources([source])
        assert len(listing.clips) == len(FORMS)
        assert all(len(decode_clip(ClipJob(each), ClipRules()).samples) for each in listing.clips)
    assert SUFFIXES < AUDIO_SUFFIXES


WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "av" else find(name, *more)
from byola_rq.audio.io import AUDIO_SUFFIXES, inspect_audio
from byola_rq.errors import AudioError
from byola_rq.sources.listing import list_sources
from pathlib import Path
assert ".m4a" not in AUDIO_SUFFIXES
(note,) = list_sources([sys.argv[1]]).notes
print(note)
try:
    inspect_audio(Path(sys.argv[1]) / "a.m4a")
except AudioError as error:
    print(error.code, error)
assert "av" not in sys.modules
"""


def test_without_the_decoder_the_extra_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.m4a", encode("m4a", tones(0.5, 16_000), 16_000))
    soundfile.write(tmp_path / "b.wav", tones(0.5, 16_000), 16_000)
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    note, refusal = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "1 .m4a" in note
    assert refusal.startswith("unsupported ")
    for line in (note, refusal):
        assert "'.[containers]'" in line


@pytest.mark.parametrize(
    ("data", "name", "demuxer"),
    [
        (b"\xff\xf1\x50\x80" + bytes(100), "AAC", "aac"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "MP4 or M4A", "mov"),
        (b"\x1aE\xdf\xa3" + bytes(100), "Matroska or WebM", "matroska"),
    ],
)
def test_the_codec_gate_names_the_container(
    monkeypatch: pytest.MonkeyPatch, data: bytes, name: str, demuxer: str
) -> None:
    assert identify_codec(io.BytesIO(data)).demuxer == demuxer
    monkeypatch.setattr(codecs, "HAS_DECODER", False)
    with refused(AudioError, "unsupported", key="codec", value=name):
        identify_codec(io.BytesIO(data))
