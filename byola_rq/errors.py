"""The exceptions a caller can catch."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from byola_rq.text.shown import shown

# Kind of rule that was broken, for programs; the message is for people.
Code = Literal[
    "cut",  # shorter than its header states
    "damaged",  # content has changed, or does not follow its format
    "different",  # from the earlier state of the same path, run or job
    "diverged",  # training without finite numbers, or with different ones on different ranks
    "empty",  # no usable content
    "exists",  # the path is in use
    "foreign",  # of another kind than required
    "held",  # locked by another process
    "malformed",  # a table or text without the required columns, keys or form
    "missing",  # does not exist
    "newer",  # of a later format version
    "not-finite",  # NaN or infinity
    "stopped",  # by a signal
    "too-large",
    "too-many",  # more broken parts than are tolerated
    "too-short",
    "twice",  # present more than once
    "unknown",  # not one of the known names
    "unreachable",  # another machine or process
    "unreadable",  # by the disk, the operating system or a decoder
    "unsupported",  # recognized, but not supported
    "unwritable",
    "usage",  # arguments that exclude each other
    "value",  # out of range, or of another type
]


class ByolaRQError(Exception):
    """Base of every error that byola_rq raises on purpose.

    The message states what is wrong, where, and what to do. Programs read the attributes.

    Args:
        message: Message for people, one line or several, escaped for terminals.
        code: Kind of rule that was broken.
        path: File or folder that the error is about.
        key: Key, column, option or argument that the error is about.
        value: Value that was found there.

    Attributes:
        exit_code: Exit status of the command line: 2 for wrong use or input, 1 for a failure.
        is_reported: True if another process of the job reports the error to the user.
    """

    exit_code = 2
    is_reported = False

    def __init__(
        self,
        message: str | Sequence[str] = "",
        *,
        code: Code | None = None,
        path: str | os.PathLike[str] | None = None,
        key: str | None = None,
        value: Any = None,
    ) -> None:
        lines = [message] if isinstance(message, str) else message
        super().__init__("\n".join(map(shown, lines)))
        self.code = code
        self.path = None if path is None else Path(path)
        self.key = key
        self.value = value

    @property
    def facts(self) -> dict[str, Any]:
        """Keyword arguments of this error, for an error that extends its message."""
        return {"code": self.code, "path": self.path, "key": self.key, "value": self.value}


class AudioError(ByolaRQError, ValueError):
    """An audio file or waveform that cannot be used; the message starts with its path."""


class ConfigError(ByolaRQError, ValueError):
    """A configuration file or override that breaks a rule; the message names every wrong key.

    Args:
        message: Message for people, one line or one per problem.
        problems: (key, value, code) of every wrong key; the first gives `code`, `key` and `value`.
        facts: Keyword arguments of `ByolaRQError`.
    """

    def __init__(
        self,
        message: str | Sequence[str] = "",
        *,
        problems: Sequence[tuple[str, Any, Code]] = (),
        **facts: Any,
    ) -> None:
        first = dict(zip(("key", "value", "code"), problems[0], strict=True)) if problems else {}
        super().__init__(message, **{**first, **facts})
        self.problems = tuple(problems)


class CorpusError(ByolaRQError, ValueError):
    """A folder or manifest of clips that cannot be used; the message starts with its path."""


class CheckpointError(ByolaRQError, ValueError):
    """A checkpoint or model file that cannot be used; the message starts with its path."""


class MissingPackageError(ByolaRQError, ImportError):  # type: ignore[misc]  # both have a path
    """An optional package that cannot be imported; the message says how to install it."""


class TrainingError(ByolaRQError, RuntimeError):
    """Training cannot continue, for example because the loss is no longer finite."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return shown(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].rstrip(":. "))


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra; the package is not in a package index."""
    return f"`pip install '.[{extra}]'` in the source checkout"


@contextlib.contextmanager
def package_needed(purpose: str, package: str, *, extra: str) -> Iterator[None]:
    """Convert an ImportError in the block to a message with the extra that has the package.

    Raises:
        MissingPackageError: If the block raises an ImportError.
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which cannot be imported ({error}); "
            f"install it with {how_to_install(extra)}",
            code="missing",
            key=package,
        ) from error
