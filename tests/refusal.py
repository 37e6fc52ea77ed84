"""Assertion of the facts that an error gives to programs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from byola_rq.errors import ByolaRQError, Code


@contextlib.contextmanager
def refused(
    kind: type[ByolaRQError], code: Code, path: Path | None = None, **facts: Any
) -> Iterator[pytest.ExceptionInfo[ByolaRQError]]:
    """The block raises `kind` with this code, path and further attributes, in one line.

    A path, key or value that the error carries must also be told to people.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error, message = caught.value, str(caught.value)
    assert error.code == code, message
    if path is not None:
        assert error.path == path, message
    for name, fact in facts.items():
        assert getattr(error, name) == fact, message
    assert "\n" not in message
    for told in (error.path, error.key):
        assert told is None or str(told) in message, f"{message!r} does not name {told}"
