"""Opening of audio files: every command uses it, so all apply the same checks."""

import contextlib
import io
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from byola_rq.audio.codecs import Codec, identify_codec
from byola_rq.audio.containers import Pieces
from byola_rq.audio.decoder import OpenAudio, named
from byola_rq.audio.encoded import EncodedAudio, audio_error, unreadable
from byola_rq.audio.multimedia import Track, find_track
from byola_rq.audio.pieces import find_pieces
from byola_rq.audio.truncation import find_truncation
from byola_rq.errors import AudioError
from byola_rq.text.parse import open_file

_REMEMBERED = 2**16  # examined files; 0.5 kB each


def open_audio(source: Path | EncodedAudio) -> OpenAudio:
    """Check and open an audio file.

    Its codec must be allowed, according to its bytes (`identify_codec`) and to the decoder; it
    must not be cut short (`find_truncation`), and must have at most 8 channels, a valid sample
    rate and at least one sample. Its length is the number of frames that decode, whatever its
    header states (`find_pieces`). The path is opened once, so the file read is the file checked.
    Results are cached until the file changes.

    Raises:
        AudioError: If a check fails or the file cannot be read.
        OSError: If this process has too many files open, which is not this file's fault.
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
    """Identify the codec of a file from its bytes; the sound may be incomplete.

    Raises:
        AudioError: If the codec is not allowed or the file cannot be read.
        OSError: As `open_audio`.
    """
    try:
        with _open_file(source) as file, _errors_named(source):
            return identify_codec(file)
    except OSError as error:
        raise unreadable(source, error) from error


def _open_file(source: Path | EncodedAudio) -> BinaryIO:
    """Open a regular file, or the bytes of encoded audio."""
    if isinstance(source, EncodedAudio):
        return io.BytesIO(source.data)
    try:
        return open_file(source)
    except FileNotFoundError:
        raise audio_error(source, "missing", "no such file") from None


def _memory_of(file: BinaryIO) -> list[Pieces | Track]:
    """Return the cache entry of a file: its pieces if it has passed every check, else empty."""
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
        with contextlib.suppress(EOFError):  # opening it reports the cause
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
