"""torchaudio's absence and its broken compiled part, each in a fresh interpreter."""

import subprocess
import sys

import pytest

ABSENT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torchaudio" else find(name, *rest)
from byola_rq.audio._torchaudio import import_torchaudio
from byola_rq.errors import MissingPackageError
try:
    import_torchaudio()
except MissingPackageError as error:
    print(error.code, error.key)
"""

# What a fresh machine sees where the compiled part was built for another torch.
BROKEN = """
import torch
real = torch.ops.load_library
def refuse(path):
    if "torchaudio" in str(path):
        raise OSError(f"Could not load this library: {path}")
    return real(path)
torch.ops.load_library = refuse
from byola_rq.audio._torchaudio import has_compiled_part, import_torchaudio
torchaudio = import_torchaudio()
assert not has_compiled_part()
print(torchaudio.transforms.MelSpectrogram(16000, 512, n_mels=20)(torch.zeros(1, 2000)).shape)
try:
    torchaudio.functional.forced_align(torch.zeros(1, 5, 3), torch.ones(1, 2, dtype=torch.int32))
except ImportError as error:
    print(error.code, error.key)
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (ABSENT, ["missing torchaudio"]),
        (BROKEN, ["torch.Size([1, 20, 8])", "missing forced_align"]),
    ],
)
def test_in_a_fresh_interpreter(script: str, expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
