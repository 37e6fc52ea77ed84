"""The one way in for sound: all commands open files here, and refuse them for the same reasons."""

import contextlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import soundfile

from byola_rq.audio.codecs import Codec, identify_codec
from byola_rq.audio.containers import open_encoded
from byola_rq.audio.encoded import MAX_SAMPLES, EncodedAudio, audio_error, reason_of, unreadable
from byola_rq.audio.multimedia import Track, TrackFile, find_track
from byola_rq.audio.pieces import Pieces, SplicedFile, find_pieces
from byola_rq.audio.truncation import find_truncation
from byola_rq.errors import AudioError, Code

MAX_CHANNELS = 8
SAMPLE_RATES = range(1_000, 768_001)  # Hz; beyond it a header is broken, not unusual

_CONTAINERS = frozenset(
    {"WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "W64", "NIST", "FLAC", "OGG", "MP3"}
    | {"mov", "matroska", "aac"}
)
_REMEMBERED = 2**16  # files that were looked into; 0.5 kB each


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from one place on.

    soundfile seeks before and after each read where it may. Block by block that costs time.
    """

    def seekable(self) -> bool:
        return False


class OpenAudio:
    """An opened file that has stood every check; one behind the other, where it is several.

    Attributes:
        samplerate: In Hz.
        channels: As the file has.
        frames: That decode, of all streams.
    """

    def __init__(self, source: Path | EncodedAudio, pieces: Pieces | Track) -> None:
        self._sounds: list[soundfile.SoundFile | TrackFile] = []
        self._closing = contextlib.ExitStack()
        self._place = 0
        try:
            if isinstance(pieces, Track):
                sound = TrackFile(open_encoded(source), pieces)
                self._sounds.append(self._closing.enter_context(sound))
            elif pieces:
                file = self._closing.enter_context(open_encoded(source))
                for parts in pieces:
                    self._open(source, SplicedFile(file, parts))
            elif isinstance(source, EncodedAudio):
                self._open(source, open_encoded(source))
            else:
                # Not by its name, which need be no text, and beside which decoders look for a
                # sidecar. The decoder closes what it is given.
                self._open(source, os.open(source, os.O_RDONLY | os.O_CLOEXEC))
            self._check(source)
        except BaseException:
            self.close()
            raise
        self.samplerate, self.channels = self._sounds[0].samplerate, self._sounds[0].channels
        self.frames = sum(sound.frames for sound in self._sounds)

    def _open(self, source: Path | EncodedAudio, file: Any) -> None:
        try:
            self._sounds.append(self._closing.enter_context(_SequentialFile(file)))
        except (soundfile.SoundFileError, RuntimeError) as error:
            reason = str(error).rsplit(": ", 1)[-1].rstrip(".")
            rule = f"not an audio file that can be read ({reason or 'its header is broken'})"
            raise audio_error(source, "damaged", rule) from error

    def _check(self, source: Path | EncodedAudio) -> None:
        problem: tuple[Code, str, str, Any] | None = None
        for sound in self._sounds:
            first, rate = self._sounds[0], sound.samplerate
            if sound.format not in _CONTAINERS:
                problem = "unsupported", "codec", f"as its bytes say; got {sound.format}", None
            elif rate not in SAMPLE_RATES:
                problem = "value", "sample rate", f"{rate_limits()}; got {rate} Hz", rate
            elif sound.channels > MAX_CHANNELS:
                limit = f"at most {MAX_CHANNELS}; got {sound.channels}"
                problem = "value", "channels", limit, sound.channels
            elif (rate, sound.channels) != (first.samplerate, first.channels):
                form = f"{rate} Hz with {sound.channels} channels behind {first.samplerate} Hz"
                limit = f"the same in all parts of a file; got {form} with {first.channels}"
                problem = "unsupported", "sample rate", limit, rate
            elif not 0 < sound.frames < MAX_SAMPLES:
                problem = "empty", "length", "at least one sample; got 0", 0
        if problem:
            code, key, limit, value = problem
            raise audio_error(source, code, f"{key} must be {limit}", key=key, value=value)

    def seek(self, position: int) -> None:
        """Go to a frame."""
        for place, sound in enumerate(self._sounds):
            if position < sound.frames or place == len(self._sounds) - 1:
                self._place = place
                sound.seek(min(position, sound.frames))
                break
            position -= sound.frames
        for sound in self._sounds[self._place + 1 :]:
            sound.seek(0)

    def read(self, num_frames: int) -> npt.NDArray[np.float32]:
        """Give the next frames, float32 `(frames, channels)`; fewer at the end or at damage."""
        blocks = []
        while True:
            block = self._sounds[self._place].read(num_frames, dtype="float32", always_2d=True)
            blocks.append(block)
            num_frames -= len(block)
            if num_frames <= 0 or self._place == len(self._sounds) - 1:
                return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
            self._place += 1

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(source: Path | EncodedAudio) -> OpenAudio:
    """Open a file, after every check of what it is.

    It must have an allowed codec by its bytes (`identify_codec`), not be cut short
    (`find_truncation`), and have at most 8 channels, a sample rate that exists and a sample. Its
    length is that of what decodes, whatever its header says (`find_pieces`). A file that was looked
    into is remembered, until it changes.

    Raises:
        AudioError: For these reasons, or if it cannot be read.
        OSError: If this process has too many files open, which is no fault of this one.
    """
    try:
        return OpenAudio(source, _look_into(source))
    except OSError as error:
        raise unreadable(source, error) from error


def rate_limits() -> str:
    """The sample rates that are read, in words."""
    return f"{SAMPLE_RATES.start} to {SAMPLE_RATES.stop - 1} Hz"


def _look_into(source: Path | EncodedAudio) -> Pieces | Track:
    if isinstance(source, EncodedAudio):
        return _examine(source)
    try:
        status = os.stat(source)
    except FileNotFoundError:
        raise audio_error(source, "missing", "no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise audio_error(source, "unreadable", "must be a file; got a folder, device or pipe")
    facts = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return _examine_file(os.fspath(source), facts)


@lru_cache(maxsize=_REMEMBERED)
def _examine_file(path: str, _: tuple[int, ...]) -> Pieces | Track:
    return _examine(Path(path))


def _examine(source: Path | EncodedAudio) -> Pieces | Track:
    codec: Codec = identify_codec(source)
    if reason := find_truncation(source):
        raise audio_error(source, "cut", reason)
    try:
        if codec.demuxer:
            with open_encoded(source) as file:
                return find_track(file, codec.demuxer)
        return find_pieces(source, codec.name, codec.start)
    except EOFError:
        return ()  # opening it says what is wrong
    except AudioError as error:
        facts = {"key": error.key, "value": error.value}
        raise audio_error(source, error.code, reason_of(error), **facts) from error
