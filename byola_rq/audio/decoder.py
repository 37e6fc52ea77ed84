"""Opened audio files: the format, rate and length that the decoder reports are checked again."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import soundfile

from byola_rq.audio.codecs import refused_codec
from byola_rq.audio.containers import Pieces
from byola_rq.audio.encoded import MAX_SAMPLES, EncodedAudio, audio_error
from byola_rq.audio.multimedia import Track, TrackFile
from byola_rq.audio.pieces import SplicedFile
from byola_rq.errors import AudioError, Code

MAX_CHANNELS = 8
SAMPLE_RATES = range(1_000, 768_001)  # Hz; beyond it a header is broken, not unusual

# Bytes per sample in containers of uncompressed sound.
_SAMPLE_BYTES = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "ALAW", "ULAW"), 1),
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}
_PLAIN = ("WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "W64", "NIST")
_COUNTED = (
    "mov",
    "matroska",
    "aac",
    "ogg",
)  # `find_track` has decoded these and counted their frames
# (format, subtype) pairs that a decoder may report.
_ALLOWED = {
    *((form, subtype) for form in _PLAIN for subtype in _SAMPLE_BYTES),
    *(("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    *((demuxer, "") for demuxer in _COUNTED),
}
# Compressed files that state more are near silence or wrong: Opus at 6 kbit/s reaches this.
_STATED_PER_BYTE = 64  # samples of one channel
TOLERATED_SECONDS = 0.1  # may be missing: four MP3 frames; encoders count differently
_BLOCK_FRAMES = 2**17
# A frame takes bits from up to 255 bytes of earlier ones, or 511 with 1152 samples each. The
# smallest frames, 8 kbit/s at 24 kHz, hold 11 of them; libmpg123 itself goes back 4 frames.
_MP3_RUN_UP = 12 * 1152


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """File without seeking: soundfile would otherwise seek before and after each block."""

    def seekable(self) -> bool:
        return False


class OpenAudio:
    """Audio file that has passed every check; concatenated streams are read one after another.

    Attributes:
        samplerate: Sample rate in Hz.
        channels: Number of channels in the file.
        frames: Number of frames that decode, over all streams.
    """

    def __init__(self, source: Path | EncodedAudio, file: BinaryIO, pieces: Pieces | Track) -> None:
        """Open the sound in `file`, at `pieces`; `close` closes the file too."""
        self._sounds: list[soundfile.SoundFile | TrackFile] = []
        self._num_bytes: list[int] = []  # of each
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(file)
        self._place = 0
        try:
            if isinstance(pieces, Track):
                self._num_bytes.append(file.seek(0, io.SEEK_END))
                file.seek(0)
                self._sounds.append(self._closing.enter_context(TrackFile(file, pieces)))
            elif not pieces:
                self._num_bytes.append(file.seek(0, io.SEEK_END))
                self._open(source, _whole(file))
            else:
                for parts in pieces:
                    spliced = SplicedFile(file, parts)
                    self._num_bytes.append(spliced.seek(0, io.SEEK_END))
                    spliced.seek(0)
                    self._open(source, spliced)
            self._check(source)
        except BaseException:
            self.close()
            raise
        self.samplerate, self.channels = self._sounds[0].samplerate, self._sounds[0].channels
        self.frames = sum(sound.frames for sound in self._sounds)

    def _open(self, source: Path | EncodedAudio, file: Any) -> None:
        try:
            sound = _SequentialFile(file, closefd=False)
        except (soundfile.SoundFileError, RuntimeError) as error:
            reason = str(error).rsplit(": ", 1)[-1].rstrip(".")
            rule = f"not an audio file that can be read ({reason or 'its header is broken'})"
            raise audio_error(source, "damaged", rule) from error
        self._sounds.append(self._closing.enter_context(sound))

    def _check(self, source: Path | EncodedAudio) -> None:
        problem: tuple[Code, str, str, Any] | None = None
        for sound, num_bytes in zip(self._sounds, self._num_bytes, strict=True):
            first, rate = self._sounds[0], sound.samplerate
            stated = _stated_bytes(sound)
            if (sound.format, sound.subtype) not in _ALLOWED:
                raise named(source, refused_codec(f"{sound.subtype} in {sound.format}"))
            if rate not in SAMPLE_RATES:
                problem = "value", "sample rate", f"{rate_limits()}; got {rate} Hz", rate
            elif sound.channels > MAX_CHANNELS:
                limit = f"at most {MAX_CHANNELS}; got {sound.channels}"
                problem = "value", "channels", limit, sound.channels
            elif (rate, sound.channels) != (first.samplerate, first.channels):
                form = f"{rate} Hz with {sound.channels} channels behind {first.samplerate} Hz"
                limit = f"the same in all parts of a file; got {form} with {first.channels}"
                problem = "unsupported", "sample rate", limit, rate
            elif sound.frames < 1:
                problem = "empty", "length", "at least one sample; got 0", 0
            elif sound.frames >= MAX_SAMPLES:
                limit = f"below {MAX_SAMPLES} samples; got {sound.frames}"
                problem = "cut", "length", limit, sound.frames
            elif stated > num_bytes:
                limit = f"that of the file's {num_bytes} bytes; got {sound.frames} samples"
                problem = "cut", "length", limit, sound.frames
        if problem:
            code, key, limit, value = problem
            raise audio_error(source, code, f"{key} must be {limit}", key=key, value=value)

    def check_length(self, source: Path | EncodedAudio) -> None:
        """Count the decoded frames if a file states more than its bytes are likely to hold.

        Raises:
            AudioError: If more than 0.1 s is missing. Reading to the end finds smaller gaps.
        """
        for sound, num_bytes in zip(self._sounds, self._num_bytes, strict=True):
            if sound.format in _PLAIN + _COUNTED:
                continue
            if sound.frames <= _STATED_PER_BYTE * num_bytes:
                continue
            count = _count_frames(sound)
            if sound.frames - count > TOLERATED_SECONDS * sound.samplerate:
                rule = f"cut short: {count} of {sound.frames} samples decode"
                raise audio_error(source, "cut", rule, value=count)
            sound.seek(0)

    def seek(self, position: int) -> None:
        """Seek to a frame."""
        for place, sound in enumerate(self._sounds):
            if position < sound.frames or place == len(self._sounds) - 1:
                self._place = place
                _seek(sound, min(position, sound.frames))
                break
            position -= sound.frames
        for sound in self._sounds[self._place + 1 :]:
            sound.seek(0)

    def read(self, num_frames: int) -> npt.NDArray[np.float32]:
        """Read the next frames, float32 `(frames, channels)`; fewer at the end or at damage."""
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


def _seek(sound: soundfile.SoundFile | TrackFile, position: int) -> None:
    """Seek to a frame; of MP3 some before it are decoded, else its first ones would be silent."""
    first = max(position - (_MP3_RUN_UP if sound.format == "MP3" else 0), 0)
    sound.seek(first)
    if first < position:
        sound.read(position - first, dtype="float32", always_2d=True)


def rate_limits() -> str:
    """Format the range of supported sample rates for a message."""
    return f"{SAMPLE_RATES.start} to {SAMPLE_RATES.stop - 1} Hz"


def _whole(file: BinaryIO) -> BinaryIO | int:
    """Return what a decoder opens: a descriptor if there is one.

    Not the path: it may not be valid text, and decoders look for sidecar files beside it.
    """
    if isinstance(file, io.BytesIO):
        file.seek(0)
        return file
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file.fileno()


def named(source: Path | EncodedAudio, error: AudioError) -> AudioError:
    """Prefix an error about a file's bytes with the file's name."""
    return audio_error(source, error.code, str(error), key=error.key, value=error.value)


def _stated_bytes(sound: soundfile.SoundFile | TrackFile) -> int:
    """Number of bytes that the stated samples would take; 0 for compressed sound."""
    if sound.format not in _PLAIN:
        return 0
    return int(sound.frames * sound.channels * _SAMPLE_BYTES.get(sound.subtype, 0))


def _count_frames(sound: soundfile.SoundFile) -> int:
    """Count the frames that decode, up to the end or to damage."""
    block = np.empty((_BLOCK_FRAMES, sound.channels), np.int16)
    count = 0
    with contextlib.suppress(soundfile.SoundFileError, RuntimeError):
        while num := len(sound.read(out=block)):
            count += num
    return count
