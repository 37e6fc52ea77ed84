"""The exceptions a caller can catch."""

import contextlib
from collections.abc import Iterator


class ByolaRQError(Exception):
    """Base of every error that byola_rq raises on purpose.

    `exit_code` is the status with which the command line leaves: 2 for wrong use or wrong input,
    1 for a failure at work. `is_said`: another process of the job tells the user.
    """

    exit_code = 2
    is_said = False


class AudioError(ByolaRQError, ValueError):
    """An audio file or waveform that cannot be used; the message starts with its path."""


class ConfigError(ByolaRQError, ValueError):
    """A configuration file or override that breaks a rule; the message names every wrong key."""


class CorpusError(ByolaRQError, ValueError):
    """A folder or manifest of clips that cannot be used; the message starts with its path."""


class CheckpointError(ByolaRQError, ValueError):
    """A checkpoint or model file that cannot be used; the message starts with its path."""


class MissingPackageError(ByolaRQError, ImportError):
    """An optional package that is not installed or does not import; the message says what to do."""


class TrainingError(ByolaRQError, RuntimeError):
    """Training cannot go on, for example because the loss is no longer finite."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What kind of error it is and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].rstrip(":. ")


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
            f"`pip install 'byola_rq[{extra}]'` adds it"
        ) from error
