"""Encoded audio inside archives and tables, and errors that name its origin."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byola_rq.errors import AudioError, Code
from byola_rq.text.shown import one_line, shown

# FLAC stores its length in 36 bits; libsndfile returns 2**63 - 1 if they are 0.
MAX_SAMPLES = 2**36


@dataclass(frozen=True)
class EncodedAudio:
    """Bytes of an audio file stored in an archive member or a table cell."""

    name: str  # for messages: ARCHIVE::MEMBER, or a path
    data: bytes

    @property
    def path(self) -> Path:
        """Path of the archive or table."""
        return Path(self.name.partition("::")[0])

    def __str__(self) -> str:
        return self.name


def audio_error(source: object, code: Code | None, rule: str, **facts: Any) -> AudioError:
    """Return an error whose message begins with the name of a file or of a part of it.

    Args:
        source: Path, encoded audio or clip.
        code: Rule that was broken.
        rule: Message after the name.
        facts: `key` and `value` of `ByolaRQError`.
    """
    path: Any = getattr(source, "path", source)
    return AudioError(f"{source}: {rule}", code=code, path=path, **facts)


def unreadable(source: object, error: OSError) -> AudioError:
    """Return the error for a file that the system fails to read.

    Raises:
        OSError: If too many files are open, which is not this file's fault.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise error
    return audio_error(source, "unreadable", f"cannot be read ({error.strerror or error})")


def reason_of(error: Exception, *names: object) -> str:
    """Return an error's message on one line, without the names that it begins with."""
    text = str(error)
    for name in names:
        text = text.removeprefix(f"{shown(name)}: ")
    return shown(one_line(text))
