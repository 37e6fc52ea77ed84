"""The one way in for sound: all commands open files here, and refuse them for the same reasons."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from byola_rq.audio.codecs import Codec, identify_codec
from byola_rq.audio.decoder import OpenAudio, named
from byola_rq.audio.encoded import EncodedAudio, audio_error, unreadable
from byola_rq.audio.multimedia import Track, find_track
from byola_rq.audio.pieces import Pieces, find_pieces
from byola_rq.audio.truncation import find_truncation
from byola_rq.errors import AudioError

_REMEMBERED = 2**16  # files that were looked into; 0.5 kB each


def open_audio(source: Path | EncodedAudio) -> OpenAudio:
    """Open a file, after every check of what it is.

    It must have an allowed codec, by its bytes (`identify_codec`) and by what the decoder then
    says, not be cut short (`find_truncation`), and have at most 8 channels, a sample rate that
    exists and a sample. Its length is that of what decodes, whatever its header says
    (`find_pieces`). The path is opened once: what was checked is what is read. A file that was
    looked into is remembered, until it changes.

    Raises:
        AudioError: For these reasons, or if it cannot be read.
        OSError: If this process has too many files open, which is no fault of this one.
    """
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(_open_file(source))
            remembered = _memory_of(file)
            pieces = remembered[0] if remembered else _examine(source, file)
            audio = opened.enter_context(OpenAudio(source, file, pieces))
            if not remembered:
                audio.check_length(source)
                remembered.append(pieces)
            opened.pop_all()
            return audio
    except OSError as error:
        raise unreadable(source, error) from error


def codec_of(source: Path | EncodedAudio) -> Codec:
    """The codec of a file by its bytes alone, which need be no whole sound.

    Raises:
        AudioError: As `open_audio`, of what the bytes say; the message names a refused codec.
        OSError: As `open_audio`.
    """
    try:
        with _open_file(source) as file, _errors_named(source):
            return identify_codec(file)
    except OSError as error:
        raise unreadable(source, error) from error


def _open_file(source: Path | EncodedAudio) -> BinaryIO:
    """Open what must be a regular file, whatever becomes of its path meanwhile, or its bytes."""
    if isinstance(source, EncodedAudio):
        return io.BytesIO(source.data)
    try:
        # A pipe in the file's place must not be waited for.
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise audio_error(source, "missing", "no such file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise audio_error(source, "unreadable", "must be a file; got a folder, device or pipe")
    return open(descriptor, "rb")


def _memory_of(file: BinaryIO) -> list[Pieces | Track]:
    """Holds the pieces of a file that has stood every check, and nothing before."""
    if isinstance(file, io.BytesIO):
        return []
    status = os.fstat(file.fileno())
    times = status.st_mtime_ns, status.st_ctime_ns
    return _memory(status.st_dev, status.st_ino, status.st_size, *times)


@lru_cache(maxsize=_REMEMBERED)
def _memory(*_: int) -> list[Pieces | Track]:
    return []


def _examine(source: Path | EncodedAudio, file: BinaryIO) -> Pieces | Track:
    with _errors_named(source):
        codec = identify_codec(file)
        if reason := find_truncation(file):
            raise AudioError(reason, code="cut")
        with contextlib.suppress(EOFError):  # opening it says what is wrong
            if codec.demuxer:
                return find_track(file, codec.demuxer)
            return find_pieces(file, codec.name, codec.start)
    return ()


@contextlib.contextmanager
def _errors_named(source: Path | EncodedAudio) -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        raise named(source, error) from error
