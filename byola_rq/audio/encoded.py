"""Encoded audio that has no file of its own, and errors that name where it comes from."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byola_rq.errors import AudioError, Code

# FLAC has 36 bits for its length; libsndfile gives 2**63 - 1 where they say nothing.
MAX_SAMPLES = 2**36


@dataclass(frozen=True)
class EncodedAudio:
    """A file's bytes without the file: a member of an archive, a cell of a table."""

    name: str  # for messages: ARCHIVE::MEMBER, or a path
    data: bytes

    @property
    def path(self) -> Path:
        """The archive or table, or what stands in the name's place."""
        return Path(self.name.partition("::")[0])

    def __str__(self) -> str:
        return self.name


def printable(text: str) -> str:
    r"""A file name that is not UTF-8 as text that is: its bytes as `\xff`."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def audio_error(source: object, code: Code | None, rule: str, **facts: Any) -> AudioError:
    """An error that begins with a file's name, or with that of something within a file.

    Args:
        source: A path, or what has one beside its name: encoded audio, a clip.
        code: As of every error.
        rule: What follows the name.
        facts: `key` and `value`, as of every error.
    """
    path: Any = getattr(source, "path", source)
    return AudioError(f"{printable(str(source))}: {rule}", code=code, path=path, **facts)


def unreadable(source: object, error: OSError) -> AudioError:
    """The error of what the system does not let be read.

    Raises:
        OSError: If it is that too many files are open, which is no fault of this one.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise error
    return audio_error(source, "unreadable", f"cannot be read ({error.strerror or error})")


def reason_of(error: Exception, *names: object) -> str:
    """An error's message in one line, without the name that it begins with."""
    text = printable(str(error))
    for name in names:
        text = text.removeprefix(f"{printable(str(name))}: ")
    return " ".join(text.split())
