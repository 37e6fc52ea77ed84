"""Run of one command on one hostile input, in a fork with limits, and its violations."""

import atexit
import contextlib
import importlib
import multiprocessing.util
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.slow.hostile.case import Case, Made, put
from tests.slow.hostile.judging import judge, look_into, plain, snapshot

ADDRESS_SPACE = 4_000_000_000


@dataclass(frozen=True)
class Outcome:
    """Outcome of a command on an input; `wrong` is empty if all is right."""

    kind: str
    name: str
    command: str
    status: int | str
    seconds: float
    cpu_seconds: float
    megabytes: int  # resident, at most
    said: str  # the line with the reason, else the first
    wrong: list[str] = field(default_factory=list)


def lay_out(case: Case, place: Path, made: Made) -> None:
    """Make a folder with an input, and beside it what links and names may lead to."""
    (place / "in").mkdir(parents=True)
    (place / "tmp").mkdir()
    for name in ("around/victim.txt", "around/folder/kept.wav", "around/folder/step-1.json"):
        put(place / name, "secret of nobody else\n")
    case.make(place, made)


class Run:
    """A command at work in `place`, which is laid out, in a process forked from this one."""

    def __init__(self, case: Case, command: str, place: Path, made: Made, patience: float) -> None:
        self.case, self.command, self.place = case, command, place
        self._most = patience * case.seconds
        self._before = snapshot(place, self._own)
        self._in_own = snapshot(self._own) if self._own.is_dir() else {}
        self._started = time.monotonic()
        self._status: int | str | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        words = [word.format(**made.paths) for word in shlex.split(command)]
        self._pid = os.fork()
        if self._pid == 0:
            _work(words, place, place.with_suffix(".said"))

    @property
    def _own(self) -> Path:
        return self.place / self.case.out

    def has_ended(self, is_patient: bool) -> bool:
        """Return True if the process has ended; end it here if it takes too long."""
        pid, status, usage = os.wait4(self._pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            self._status = code if code >= 0 else signal.Signals(-code).name
        elif time.monotonic() - self._started > self._most:
            self._status = f"over {self._most:g} s"
        else:
            if is_patient:
                time.sleep(0.002)
            return False
        self._seconds = time.monotonic() - self._started
        self.end()
        if not pid:
            _, _, usage = os.wait4(self._pid, 0)
        self._megabytes = usage.ru_maxrss // 1024
        self._cpu_seconds = usage.ru_utime + usage.ru_stime
        return True

    def end(self) -> None:
        """Kill it, if it is there, and what it has left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """Compare what it did with what it may; removes its folder."""
        path = self.place.with_suffix(".said")
        out, err = (_take(path.with_suffix(f".{name}")) for name in ("out", "err"))
        assert self._status is not None
        reason, wrong = judge(self.case, self._status, out, err)
        after = snapshot(self.place, self._own)
        for name in sorted(self._before.keys() | after.keys()):
            if self._before.get(name) != after.get(name):
                what = "written" if name in after else "removed"
                wrong.append(f"{what} outside of {self.case.out}: {name}")
        if self._status == 0 or not wrong:
            wrong += look_into(self._own, self._in_own)
            complaint = self.case.check(self.place)
            wrong += [complaint] if complaint else []
        remove(self.place)
        case = self.case
        return Outcome(
            case.kind,
            case.name,
            self.command,
            self._status,
            round(self._seconds, 2),
            round(self._cpu_seconds, 2),
            self._megabytes,
            plain(reason),
            [plain(each) for each in wrong],
        )


def _work(words: list[str], place: Path, said: Path) -> None:
    """Be the command; never returns."""
    status: object = 1
    try:
        # What the process that it is forked from does at its end is not for it to do.
        atexit._clear()
        atexit.register(multiprocessing.util._exit_function)
        os.setpgid(0, 0)
        os.chdir(place)
        os.environ["TMPDIR"] = str(place / "tmp")
        streams = (os.devnull, said.with_suffix(".out"), said.with_suffix(".err"))
        for number, path in enumerate(streams):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        main = importlib.import_module("tests.slow.hostile.commands").COMMANDS
        main.get(words[0], main["byola-rq"])(words)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _take(path: Path) -> bytes:
    data = path.read_bytes()
    path.unlink()
    return data


def remove(folder: Path) -> None:
    """Remove a folder of any depth; Python's own way recurses."""
    subprocess.run(["rm", "-rf", folder], check=True)
