"""The method on one page runs, on sounds of its own and on a folder."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "pretrain_in_100_lines.py"


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_method_on_one_page(is_folder: bool, sounds: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLE, *([sounds] if is_folder else [])]
    ended = subprocess.run(
        [*command, "--steps", "2", "--clips", "20"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (loss,) = re.findall(r"loss (\S+)", ended.stdout)
    assert math.isfinite(float(loss))
    rows = re.findall(r"^(.*\S) +([\d.]+) % +([\d.]+) %$", ended.stdout, flags=re.MULTILINE)
    assert len(rows) == 3  # log-mel, untrained, trained
    # Of 80 views at least, each finds its other among 10 clips by chance in 10 % +- 3.4.
    assert all(float(found) > 20 for _, found, _ in rows)


def test_it_is_one_page() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 100
