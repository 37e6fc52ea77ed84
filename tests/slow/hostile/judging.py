"""Checks of a command's output, status and files."""

import csv
import hashlib
import os
import stat
import unicodedata
from pathlib import Path

from tests.slow.hostile.case import MARKUP, Case

BYTES_AT_MOST = 100_000_000  # of a file that it writes: nothing here is larger
CHARACTERS_AT_MOST = 6_000  # of all that it says: a file must not flood the terminal
_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_MOST_DIGESTED = 1 << 24  # bytes of a file


def judge(case: Case, status: int | str, out: bytes, err: bytes) -> tuple[str, list[str]]:
    """The line with the reason, and what is wrong with status and words."""
    wrong = []
    if status not in case.statuses:
        wrong.append(f"status {status}, not {' or '.join(map(str, sorted(case.statuses)))}")
    text = (out + b"\n" + err).decode("utf-8", "surrogateescape")
    if odd := sorted({letter for letter in text if _is_odd(letter)}):
        wrong.append(f"on the terminal: {', '.join(map(ascii, odd))}")
    if len(text) > CHARACTERS_AT_MOST:
        wrong.append(f"says {len(text)} characters")
    if b"secret of nobody" in out + err:
        wrong.append("shows what another file holds")
    lines = err.decode("utf-8", "replace").splitlines()
    if any(line.startswith("Traceback") for line in lines):
        wrong.append(f"a traceback: {lines[-1]}")
    if any("(--debug shows where)" in line for line in lines):
        wrong.append(f"a fault that nothing foresees: {lines[-1]}")
    reasons = [line for line in lines if line.startswith("error: ")]
    if status in (1, 2) and (len(reasons) != 1 or lines[-1] != reasons[0]):
        wrong.append(f"{len(reasons)} lines of reason, among {len(lines)}")
    if status == 0 and reasons:
        wrong.append("a reason, and status 0")
    said = reasons or lines or out.decode("utf-8", "replace").splitlines() or [""]
    return said[0], wrong


def _is_odd(letter: str) -> bool:
    if letter == "\n":
        return False
    is_control = unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}
    return (
        is_control or unicodedata.bidirectional(letter) in _BIDI or letter in "\u200e\u200f\u061c"
    )


def plain(text: str) -> str:
    return "".join(f"\\x{ord(each):02x}" if _is_odd(each) else each for each in text)


def look_into(own: Path, before: dict[str, tuple[object, ...]]) -> list[str]:
    """List problems of written tables and pages: formulas, foreign markup."""
    after = snapshot(own) if own.is_dir() else {}
    wrong = []
    for path in sorted(own.rglob("*")) if own.is_dir() else []:
        name = os.path.relpath(path, own)
        if path.is_symlink() or not path.is_file() or before.get(name) == after.get(name):
            continue
        if (size := path.stat().st_size) > BYTES_AT_MOST:
            wrong.append(f"{path.name}: {size} bytes")
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            wrong += [f"{path.name}: a formula {each!r}" for each in cells if _is_formula(each)][:1]
        elif path.suffix in {".html", ".md"} and MARKUP in path.read_text(errors="replace"):
            wrong.append(f"{path.name}: markup of a stranger")
    return wrong


def _is_formula(cell: str) -> bool:
    if not cell.startswith(_FORMULA_STARTS):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def snapshot(folder: Path, own: Path | None = None) -> dict[str, tuple[object, ...]]:
    """Everything below a folder, what is below `own` excepted: kind, mode, size and content."""
    seen: dict[str, tuple[object, ...]] = {}
    stack = [folder]
    while stack:
        current = stack.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path == own:
                    continue
                status = entry.stat(follow_symlinks=False)
                what: tuple[object, ...] = (status.st_mode, status.st_ino)
                if stat.S_ISDIR(status.st_mode):
                    stack.append(path)
                elif stat.S_ISLNK(status.st_mode):
                    what += (os.readlink(path),)
                elif stat.S_ISREG(status.st_mode):
                    what += (status.st_size, status.st_mtime_ns, _digest(path, status.st_size))
                seen[os.path.relpath(path, folder)] = what
    return seen


def _digest(path: Path, size: int) -> str:
    if size > _MOST_DIGESTED:  # sparse, or as large as only a mistake can make it
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return str(error.errno)
