"""Every call through which a save reaches the disk, and a failure or a kill at each of them.

The functions patched are Python's and safetensors' own; the code under test is untouched.
"""

import builtins
import contextlib
import errno
import io
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch

# All of the standard library and of safetensors that changes files or makes them durable, whether
# it is used today or not; `open` stands for the writes through it, `serialize_file` for Rust's.
_FUNCTIONS: list[tuple[Any, str]] = [
    (io, "open"),
    (builtins, "open"),
    (safetensors.torch, "serialize_file"),
    *[
        (os, name)
        for name in (
            *("open", "write", "pwrite", "fsync", "fdatasync", "sync", "truncate", "ftruncate"),
            *("mkdir", "rename", "replace", "link", "symlink", "unlink", "remove", "rmdir"),
            *("scandir", "listdir", "close"),
        )
        if hasattr(os, name)
    ],
]
# What a full disk still does.
_NEEDS_NO_ROOM = {"unlink", "remove", "rmdir", "scandir", "listdir", "close"}
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Call:
    """System call of a save: its number, the function, and the last part of its path."""

    number: int
    name: str
    subject: str
    is_writing: bool  # bytes may follow, up to the next call

    def __str__(self) -> str:
        return f"call {self.number}, {self.name}({self.subject})"


class InjectedError(OSError):
    """Tells an error of ours from one of the machine."""


@contextlib.contextmanager
def interposed(on_call: Callable[[Call], None]) -> Iterator[None]:
    """Run `on_call` before every call that reaches the disk; it may raise, or end the process."""
    depth = 0
    count = 0

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal depth, count
            # The standard library's functions may call each other: the outermost counts.
            if depth == 0:
                count += 1
                depth += 1
                try:
                    on_call(Call(count - 1, name, _subject(name, args), _is_writing(name, args)))
                finally:
                    depth -= 1
            depth += 1
            try:
                return function(*args, **options)
            finally:
                depth -= 1

        return call

    with contextlib.ExitStack() as stack:
        for module, name in _FUNCTIONS:
            wrapped = wrap(name, getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, wrapped))
        yield


def record(save: Callable[[], object]) -> list[Call]:
    """The calls of a save that nothing disturbs."""
    calls: list[Call] = []
    with interposed(calls.append):
        save()
    return calls


@contextlib.contextmanager
def failing(call: Call, number: int, *, lasts: bool) -> Iterator[None]:
    """Let a call fail with `errno` `number`; and, if it `lasts`, every later one that would."""

    def on_call(now: Call) -> None:
        is_hit = now.number == call.number or (lasts and now.number > call.number)
        if is_hit and now.name != "close" and _can_fail(now, number):
            raise InjectedError(number, os.strerror(number), now.subject)

    with interposed(on_call):
        yield


@contextlib.contextmanager
def limited_after(call: Call, num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `num_bytes` between a call and the next: its writes fail there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_call(now: Call) -> None:
        limit = num_bytes if now.number == call.number else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with interposed(on_call):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def killed_at(call: Call, save: Callable[[], object]) -> None:
    """Run a save in a process that is killed (SIGKILL) just before a call."""

    def on_call(now: Call) -> None:
        if now.number == call.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def save_and_die() -> None:
        with interposed(on_call):
            save()

    assert _die(save_and_die) == signal.SIGKILL, call


def killed_within(call: Call, num_bytes: int, save: Callable[[], object]) -> None:
    """Run a save in a process that ends within the write after a call, at this byte."""

    def save_and_die() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Python ignores it; the default ends the process within the write, as SIGKILL would.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with limited_after(call, num_bytes):
            save()

    assert _die(save_and_die) == signal.SIGXFSZ, (call, num_bytes)


def _die(work: Callable[[], object]) -> int:
    """The signal that ended a copy of this process at work; 0 if none did."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(3)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _can_fail(call: Call, number: int) -> bool:
    return number != errno.ENOSPC or (call.name not in _NEEDS_NO_ROOM and call.is_writing)


def _is_writing(name: str, args: tuple[Any, ...]) -> bool:
    if name != "open":
        return name not in _NEEDS_NO_ROOM
    how = args[1] if len(args) > 1 else "r"
    if isinstance(how, int):
        return bool(how & _WRITE_FLAGS)
    return bool(set(how) & set("wax+"))


def _subject(name: str, args: tuple[Any, ...]) -> str:
    for each in args:
        if isinstance(each, str | Path):
            return Path(each).name
    return "" if name in ("scandir", "listdir", "close") else "..."
