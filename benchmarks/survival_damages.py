"""Random damage of checkpoint directories, each undone afterwards."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from byola_rq.errors import CheckpointError
from byola_rq.runs.checkpoint import find_damage, load_newest_checkpoint

BLOCK = 512  # bytes; disks lose multiples of it

Files = dict[Path, bytes]
Damage = Callable[[random.Random, Path, Path], None]


def damage_often(run_dir: Path, times: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Damage the newest two checkpoints of a run in turn, `times` times in total.

    Damage that leaves the content unchanged (a zeroed block of zeros, a reordered manifest) is not
    counted.

    Returns:
        The number of damages of each kind, and a line for each one that went undetected.
    """
    older, newest = sorted(run_dir.glob("step-*"))[-2:]
    whole = _read_files(older, newest)
    rng = random.Random(seed)  # noqa: S311  # nothing secret
    counts: Counter[str] = Counter()
    missed: list[str] = []
    while counts.total() < times:
        kind = rng.choice(list(DAMAGES))
        DAMAGES[kind](rng, newest, older)
        now = _read_files(older, newest)
        damaged = [path for path in (newest, older) if _is_changed(path, whole, now)]
        if damaged:
            counts[kind] += 1
            if reason := _miss(run_dir, newest, older, damaged):
                missed.append(f"{kind}, number {counts.total()}: {reason}")
        _write_back(whole, now)
    return counts, missed


def _miss(run_dir: Path, newest: Path, older: Path, damaged: list[Path]) -> str | None:
    """Return how the loader mishandled damaged checkpoints; None if it did not."""
    for path in damaged:
        if find_damage(path) is None:
            return f"find_damage sees nothing in {path.name}"
    try:
        checkpoint, lines = load_newest_checkpoint(run_dir)
    except CheckpointError:
        others = set(run_dir.glob("step-*")) - set(damaged)
        return "whole checkpoints were not found" if others else None
    expected = next((path for path in (newest, older) if path not in damaged), None)
    if checkpoint is None or expected is None:
        return "a damaged checkpoint was loaded, or none at all"
    if checkpoint.state["step"] != int(expected.name.removeprefix("step-")):
        return f"step {checkpoint.state['step']} was loaded instead of {expected.name}"
    is_reported = all(
        any(path.name in line for line in lines) for path in damaged if path > expected
    )
    return None if is_reported else "no line reports it"


def _is_changed(folder: Path, whole: Files, now: Files) -> bool:
    for path, content in whole.items():
        if path.parent == folder and now.get(path) != content:
            if path.name != "manifest.json" or path not in now:
                return True
            try:
                if json.loads(now[path]) != json.loads(content):
                    return True
            except ValueError:
                return True
    return False


def _read_files(*folders: Path) -> Files:
    return {path: path.read_bytes() for folder in folders for path in folder.iterdir()}


def _write_back(whole: Files, now: Files) -> None:
    for path, content in whole.items():
        if now.get(path) != content:
            path.write_bytes(content)


def _pick(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(folder.iterdir()))


def _edit(rng: random.Random, folder: Path, change: Callable[[bytearray], object]) -> None:
    path = _pick(rng, folder)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def _flip_bit(rng: random.Random, newest: Path, older: Path) -> None:
    del older

    def change(content: bytearray) -> None:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)

    _edit(rng, newest, change)


def _change_bytes(rng: random.Random, newest: Path, older: Path) -> None:
    del older

    def change(content: bytearray) -> None:
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)

    _edit(rng, newest, change)


def _truncate(rng: random.Random, newest: Path, older: Path) -> None:
    del older

    def change(content: bytearray) -> None:
        del content[rng.randrange(len(content)) :]

    _edit(rng, newest, change)


def _extend(rng: random.Random, newest: Path, older: Path) -> None:
    del older

    def change(content: bytearray) -> None:
        size = rng.randint(1, 2 * BLOCK)
        content.extend(rng.choice([bytes(size), rng.randbytes(size)]))

    _edit(rng, newest, change)


def _zero_block(rng: random.Random, newest: Path, older: Path) -> None:
    del older

    def change(content: bytearray) -> None:
        start = rng.randrange(0, len(content), BLOCK)
        size = len(content[start : start + BLOCK])
        content[start : start + size] = bytes(size)

    _edit(rng, newest, change)


def _take_block_of_another(rng: random.Random, newest: Path, older: Path) -> None:
    path = _pick(rng, newest)
    content, other = bytearray(path.read_bytes()), (older / path.name).read_bytes()
    start = rng.randrange(0, len(content), BLOCK)
    content[start : start + BLOCK] = other[start : start + BLOCK]
    path.write_bytes(content)


def _swap_between(rng: random.Random, newest: Path, older: Path) -> None:
    """Swap a file, or all files, between the checkpoints."""
    names = sorted(path.name for path in newest.iterdir())
    for name in rng.sample(names, rng.randint(1, len(names))):
        mine, other = (newest / name).read_bytes(), (older / name).read_bytes()
        (newest / name).write_bytes(other)
        (older / name).write_bytes(mine)


def _swap_within(rng: random.Random, newest: Path, older: Path) -> None:
    del older
    first, second = rng.sample(sorted(newest.iterdir()), 2)
    mine, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(mine)


def _delete(rng: random.Random, newest: Path, older: Path) -> None:
    del older
    paths = sorted(newest.iterdir())
    for path in rng.sample(paths, rng.randint(1, len(paths))):
        path.unlink()


def _edit_manifest(rng: random.Random, newest: Path, older: Path) -> None:
    del older
    path = newest / "manifest.json"
    manifest = json.loads(path.read_text())
    name = rng.choice(sorted(manifest))
    other = rng.choice(sorted(set(manifest) - {name}))
    edits: list[Callable[[], object]] = [
        lambda: manifest.pop(name),
        lambda: manifest.update({f"{name}.bak": manifest.pop(name)}),
        lambda: manifest.update({name: manifest[other]}),
        lambda: manifest[name].update(size=manifest[name]["size"] + rng.choice((-1, 1))),
        lambda: manifest[name].update(sha256=rng.randbytes(32).hex()),
        lambda: manifest[name].pop(rng.choice(("size", "sha256"))),
        lambda: manifest.update({name: None}),
        manifest.clear,
    ]
    rng.choice(edits)()
    text = rng.choice([json.dumps(manifest), json.dumps(manifest), "[]", "null", "0", ""])
    path.write_text(text)


DAMAGES: dict[str, Damage] = {
    "a flipped bit": _flip_bit,
    "changed bytes": _change_bytes,
    "a truncation": _truncate,
    "an extension": _extend,
    "a zeroed block": _zero_block,
    "a block of another checkpoint": _take_block_of_another,
    "files swapped between checkpoints": _swap_between,
    "files swapped within one": _swap_within,
    "deleted files": _delete,
    "an edited manifest": _edit_manifest,
}
