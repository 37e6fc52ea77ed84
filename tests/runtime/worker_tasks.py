"""What worker processes are given to do; they import it by its name, and little else."""

import ctypes
import itertools
import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byola_rq.errors import AudioError, CorpusError

MOST = 1_000_000  # bytes of a message


@dataclass
class Touching:
    """Object that makes a file when it is unpickled."""

    path: str

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


def work(item: str) -> bytes:
    match item.split(":"):
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["abort"]:
            os.abort()
        case ["segfault"]:
            ctypes.string_at(0)
        case ["exit", code]:
            os._exit(int(code))
        case ["signal", number]:
            os.kill(os.getpid(), int(number))
            time.sleep(30)
        case ["memory", gigabytes]:
            return b"%d" % len(np.ones(int(float(gigabytes) * 1e9), np.uint8))
        case ["error"]:
            raise AudioError("not so good")
        case ["bug"]:
            raise KeyError("lost")
        case ["print"]:
            os.write(2, b"a decoder complains\n")
        case ["once", path]:
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case ["megabytes", size]:
            return bytes(int(size) * 1_000_000)
        case ["pickle", path]:
            return pickle.dumps(Touching(path))
    return f"done {item}".encode()


def die_at_once() -> None:
    os._exit(3)


@dataclass
class Unloadable:
    """An item that ends the process which takes it from the pipe."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return die_at_once, ()


def give(kind: str) -> Iterator[bytes]:
    yield b"first"
    match kind:
        case "hang":
            time.sleep(60)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "memory":
            bytearray(2**30)
        case "bug":
            raise KeyError("lost")
        case "error":
            raise CorpusError("a is not so good", code="damaged", key="a", value=7)
        case "large":
            yield bytes(MOST + 1)
    yield b""
    yield b"%d" % os.getpid()


def count() -> Iterator[bytes]:
    for number in itertools.count():
        yield b"%d" % number
