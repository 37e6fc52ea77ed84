"""The exceptions a caller can catch."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from byola_rq.text.shown import shown

# Which rule was broken, for programs; words that people read are in the message.
Code = Literal[
    "cut",  # shorter than it says it is
    "damaged",  # not what was written, or not even its own format
    "different",  # from what the same place, run or job had before
    "diverged",  # training that computes no finite numbers, or not the same in all ranks
    "empty",  # nothing in it that can be used
    "exists",  # a place that is taken
    "foreign",  # of another kind than the one asked for
    "held",  # by another process at work
    "malformed",  # a table or text without the columns, keys or form it must have
    "missing",  # not there
    "newer",  # of a format that comes after this version
    "not-finite",  # NaN or infinity
    "stopped",  # by a signal
    "too-large",
    "too-many",  # broken parts in a whole that could do without a few
    "too-short",
    "twice",  # what must be there once
    "unknown",  # a name that is none of the known ones
    "unreachable",  # another machine or process
    "unreadable",  # by the disk, the operating system or a decoder
    "unsupported",  # understood, and refused
    "unwritable",
    "usage",  # arguments that do not go together
    "value",  # out of its range, or of another type
]


class ByolaRQError(Exception):
    """Base of every error that byola_rq raises on purpose.

    Its message is one line: what is wrong, where, and what to do. Programs ask its attributes.

    Args:
        message: For people, a line; or several. Each is kept such that a terminal only shows it.
        code: Which rule was broken.
        path: File or folder it is about.
        key: Key, column, option or argument it is about.
        value: What was found there.

    `exit_code` is the status with which the command line leaves: 2 for wrong use or wrong input,
    1 for a failure at work. `is_said`: another process of the job tells the user.
    """

    exit_code = 2
    is_said = False

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
        """The arguments beside the message, for an error that says more of the same."""
        return {"code": self.code, "path": self.path, "key": self.key, "value": self.value}


class AudioError(ByolaRQError, ValueError):
    """An audio file or waveform that cannot be used; the message starts with its path."""


class ConfigError(ByolaRQError, ValueError):
    """A configuration file or override that breaks a rule; the message names every wrong key.

    Args:
        message: For people, a line, or one for every problem.
        problems: (key, value, rule) of every wrong key; the first gives `code`, `key` and `value`.
        facts: As of every error.
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
    """An optional package that is not installed or does not import; the message says what to do."""


class TrainingError(ByolaRQError, RuntimeError):
    """Training cannot go on, for example because the loss is no longer finite."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What kind of error it is and the first line of what it says."""
    return shown(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].rstrip(":. "))


def how_to_install(extra: str) -> str:
    """The command that adds an extra, for a message; no package index knows our name."""
    return f"`pip install '.[{extra}]'` in the source checkout"


@contextlib.contextmanager
def package_needed(purpose: str, package: str, *, extra: str) -> Iterator[None]:
    """Import a package that an extra brings in it.

    Raises:
        MissingPackageError: If it does not import; the message says what needs it, and the remedy.
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which does not import ({error}); "
            f"{how_to_install(extra)} adds it",
            code="missing",
            key=package,
        ) from error
