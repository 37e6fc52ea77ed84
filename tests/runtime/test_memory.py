"""Freed memory stays with the process, where glibc is told so."""

import platform
import subprocess
import sys

import pytest

from byola_rq.runtime.memory import keep_freed_memory

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from byola_rq.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
block = np.ones(64 * 2**20 // 8)
del block
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096)
"""


def resident_after_freeing(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not a Linux with glibc")
def test_freed_memory_is_kept() -> None:
    # 64 MiB were freed: kept they stay resident, by default they go back at once.
    assert resident_after_freeing("keep") - resident_after_freeing("leave") > 48 * 2**20


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not keep_freed_memory()
