"""Output folders of the evaluation, and published sets: results, predictions, caches, lists."""

import csv
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.slow.hostile.arrays import ARRAYS
from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    SPOILED,
    Case,
    Change,
    Made,
    changed,
    link,
    nested,
    pipe,
    put,
)

COMPARE = "evaluate compare model logmel --out in/o"
AGAIN = (
    "evaluate {model} --task {labelled} --out in/o --device cpu --workers 1 --unit-seconds 0.5 "
    "--probe knn"
)
INSPECT = "evaluate inspect --data-root in --out out/problems.csv --workers 1"

_folder = partial(changed, "results", "in/o")


def _rows(**values: str) -> Change:
    """results.csv with other values in every row."""

    def change_it(out: Path) -> None:
        rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **values} for row in rows)
        put(out / "results.csv", text.getvalue())

    return change_it


def _predictions(text: str) -> Change:
    def change_it(out: Path) -> None:
        for path in (out / "predictions").glob("*.csv"):
            put(path, text)

    return change_it


def _each_prediction(change: Change) -> Change:
    return lambda out: [change(path) for path in (out / "predictions").glob("*.csv")]


def _each_cached(name: str, change: Change) -> Change:
    return lambda out: [change(path) for path in (out / "cache").rglob(name)]


HEADER = "file_name,label,prediction,fold,seed"
COMPARED: dict[str, Change] = {
    "run_id that climbs": _rows(run_id="../../../around/victim"),
    "run_id with a null": _rows(run_id="a\0b"),
    "run_id of 5,000 letters": _rows(run_id="a" * 5_000),
    "spoiled task": _rows(task=f"{SPOILED}\n{MARKUP}"),
    "spoiled split": _rows(split=SPOILED),
    "a score of NaN": _rows(score="nan"),
    "a score of 1e999": _rows(score="1e999"),
    "a seed of 5,000 digits": _rows(seed="9" * 5_000),
    "a seed of 4,000 digits": _rows(seed="9" * 4_000),
    "counts below zero": _rows(n_test="-5", n_classes="-1"),
    "a column of nobody": lambda out: put(out / "results.csv", f"{SPOILED},{FORMULA}\n1,2\n"),
    "a field without end": lambda out: put(out / "results.csv", f'"{"a" * 3_000_000}'),
    "not UTF-8": lambda out: put(out / "results.csv", b"\xff\xfe\n"),
    "results that are a FIFO": lambda out: pipe(out / "results.csv"),
    "results that are an endless device": lambda out: link(out / "results.csv", "/dev/zero"),
    "predictions that are a FIFO": _each_prediction(pipe),
    "predictions that are an endless device": _each_prediction(
        lambda path: link(path, "/dev/zero")
    ),
    "predictions of nobody": _predictions(f"{SPOILED}\n"),
    "predictions of spoiled names": _predictions(f"{HEADER}\n{SPOILED},{FORMULA},b,,0\n"),
    "predictions without end": _predictions(f'{HEADER}\n"{"a" * 3_000_000}'),
    "predictions of a seed of text": _predictions(f"{HEADER}\na,b,c,,x\n"),
    "predictions of infinite scores": _predictions(
        f"{HEADER},score:a\na,a,a,,0,inf\nb,a,a,,0,nan\n"
    ),
}
AGAINST: dict[str, Change] = {
    "spoiled names": _rows(model=f"{SPOILED}", task=FORMULA, date=MARKUP),
    "names of formulas and markup": _rows(model=FORMULA, weights_sha256=MARKUP, model_version="+1"),
    "a lock that is a link": lambda out: link(out / ".lock", "../../around/victim.txt"),
    "a summary that is a link": lambda out: link(out / "summary.csv", "../../around/victim.txt"),
    "cached rows of 60 GiB": _each_cached(
        "embeddings.npy", lambda path: put(path, ARRAYS["60 GiB in 128 bytes"]())
    ),
    "cached rows that are a FIFO": _each_cached("embeddings.npy", pipe),
    "cached marks that are a link": _each_cached(
        "embeddings.done.npy", lambda path: link(path, "../../../../around/victim.txt")
    ),
    "cached statistics without end": _each_cached("*.json", lambda path: put(path, nested())),
}


def _nsynth(text: str) -> Callable[[Path, Made], None]:
    def make(place: Path, _: Made) -> None:
        for part in ("train", "valid", "test"):
            put(place / f"in/nsynth-{part}/examples.json", text)
            put(place / f"in/nsynth-{part}/audio/a.wav", b"")

    return make


SETS: dict[str, Callable[[Path, Made], None]] = {
    "NSynth's notes without end": _nsynth(nested()),
    "NSynth's notes that are a list": _nsynth("[]"),
    "NSynth's notes that climb": _nsynth('{"../../around/victim": {"instrument_family_str": 1}}'),
    "NSynth's notes that spoil": _nsynth(
        f'{{"{ascii(SPOILED)[1:-1]}": {{"instrument_family_str": "a"}}}}'.replace("\\x", "\\u00")
    ),
}


def cases() -> Iterator[Case]:
    for name, change in COMPARED.items():
        statuses = (
            NAMED
            if name.startswith(("run_id", "spoiled", "a score", "a seed of 4", "counts"))
            else frozenset({1, 2})
        )
        yield Case("results", name, (COMPARE,), _folder(change), statuses)
    for name, change in AGAINST.items():
        yield Case("results", f"{name}, added to", (AGAIN,), _folder(change), NAMED, out="in/o")
    for name, make in SETS.items():
        yield Case("published set", name, (INSPECT,), make)
