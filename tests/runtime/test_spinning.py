"""The wait of threads, set before torch is there, where its user has not set one."""

import os
import subprocess
import sys

import pytest

# What a command's process has in its environment by the time that it imports torch.
PROGRAM = """
import os, sys
from byola_rq.cli.app import main
assert "torch" not in sys.modules
try:
    main(["--help"])
except SystemExit:
    pass
assert "torch" not in sys.modules
assert "numpy" not in sys.modules
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "10000 17"),
        ({"GOMP_SPINCOUNT": "7", "OPENBLAS_THREAD_TIMEOUT": "26"}, "7 26"),
        ({"OMP_WAIT_POLICY": "active"}, "None 17"),
        ({"OMP_NUM_THREADS": "2"}, "10000 17"),
    ],
)
def test_a_command_bounds_it_before_torch_is_imported(
    chosen: dict[str, str], expected: str
) -> None:
    plain = {
        name: each
        for name, each in os.environ.items()
        if not name.startswith(("OMP", "GOMP", "OPENBLAS"))
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=plain | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == expected
