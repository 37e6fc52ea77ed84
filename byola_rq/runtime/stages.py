"""Names for the parts of a training step, at next to no cost until somebody measures them."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch

Stage = Literal[
    "input",
    "graph",  # all that follows, where it is replayed
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
    """What is done in this context belongs to a stage, less what an inner one claims.

    Two microseconds where nobody measures. Compiled code has no stages: they would cut its
    graph, and a run that is measured would be another one.
    """
    if torch.compiler.is_compiling() or _recorder is None:
        return contextlib.nullcontext()
    return _recorder(name)


@contextlib.contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Let `recorder` see the stages of this context; one at a time."""
    global _recorder  # noqa: PLW0603  # a step has one clock, wherever its parts are written
    assert _recorder is None
    _recorder = recorder
    try:
        yield
    finally:
        _recorder = None
