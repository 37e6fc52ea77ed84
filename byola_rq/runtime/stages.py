"""Names for the parts of a training step, for time measurements."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch

Stage = Literal[
    "input",
    "graph",  # all that follows, if it is replayed
    "frontend",
    "views",
    "online forward",
    "target",
    "backward",
    "optimizer",
    "EMA",
]
STAGES: tuple[Stage, ...] = get_args(Stage)  # in the order of a step

Recorder = Callable[[Stage], AbstractContextManager[object]]

_recorder: Recorder | None = None


def stage(name: Stage) -> AbstractContextManager[object]:
    """Attribute the work in this context to a stage, except that of inner stages.

    It takes two microseconds without a recorder. Compiled code has no stages: they would break its
    graph and change what is measured.
    """
    if torch.compiler.is_compiling() or _recorder is None:
        return contextlib.nullcontext()
    return _recorder(name)


@contextlib.contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Send the stages in this context to `recorder`; only one at a time."""
    global _recorder  # noqa: PLW0603  # stages are entered in many modules
    assert _recorder is None
    _recorder = recorder
    try:
        yield
    finally:
        _recorder = None
