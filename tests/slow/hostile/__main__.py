"""Every hostile input given to its commands, each in a process of its own, and what came of it.

`python -m tests.slow.hostile [--seed N] [--only WORDS] [--table FILE] [--jobs N]`, from the
checkout. One process imports what the commands need and forks once for each: an interpreter with
torch takes longer to start than most of them take.
"""

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.slow.hostile import (
    audio,
    checkpoints,
    corpora,
    embeddings,
    folders,
    misbehavior,
    models,
    parquets,
    parts,
    questions,
    results,
    runs,
    tables,
    tars,
    weights,
)
from tests.slow.hostile.case import Case, Made
from tests.slow.hostile.harmless import make_harmless
from tests.slow.hostile.judging import snapshot
from tests.slow.hostile.outcome import Outcome, Run, lay_out, remove

MODULES = (
    misbehavior, audio, tars, parquets, folders, tables, models, weights, corpora, parts,
    checkpoints, runs, embeddings, questions, results,
)  # fmt: skip


def all_cases() -> list[Case]:
    """Every hostile input, by kind."""
    return [case for module in MODULES for case in module.cases()]


def one_in(num: int, cases: list[Case]) -> list[Case]:
    """Keep the first of every `num` of each kind, and all of what no command may do."""
    seen: Counter[str] = Counter()
    kept = []
    for case in cases:
        if case.kind == misbehavior.KIND or seen[case.kind] % num == 0:
            kept.append(case)
        seen[case.kind] += 1
    return kept


def run_all(folder: Path, given: argparse.Namespace) -> list[Outcome]:
    """Give every input to its commands, some at a time."""
    made = Made(folder / "made", given.seed)
    cases = [case for case in all_cases() if given.only in f"{case.kind} {case.name}"]
    cases = one_in(given.one_in, cases)
    todo = [(case, words) for case in cases for words in case.commands]
    places = [folder / str(number) for number in range(len(todo))]
    in_a_fork(lambda: make_harmless(made.folder))
    before = snapshot(made.folder)

    def lay_out_all() -> None:
        for (case, _), place in zip(todo, places, strict=True):
            lay_out(case, place, made)

    in_a_fork(lay_out_all)
    waiting = list(zip(todo, places, strict=True))[::-1]
    running: list[Run] = []
    outcomes = []
    try:
        while waiting or running:
            if waiting and len(running) < given.jobs:
                (case, words), place = waiting.pop()
                running.append(Run(case, words, place, made, given.patience))
            is_full = len(running) == given.jobs or not waiting
            for run in [run for run in running if run.has_ended(is_full)]:
                running.remove(run)
                outcomes.append(each := run.outcome())
                if not is_right(each):
                    print(f"{each.kind}: {each.name}: {each.command}: {'; '.join(each.wrong)}")
    finally:
        for run in running:
            run.end()
    if snapshot(made.folder) != before:
        raise SystemExit(
            "a command has changed the harmless files, which lie outside of its folder"
        )
    return outcomes


def is_right(outcome: Outcome) -> bool:
    """Return True if nothing is wrong; for misbehavior, if it was detected."""
    return bool(outcome.wrong) == (outcome.kind == misbehavior.KIND)


def in_a_fork(work: Callable[[], object]) -> None:
    """Do it in a process of its own: this one keeps its memory small and starts no thread."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the inputs could not be made")


def table(outcomes: list[Outcome]) -> str:
    """A line for each outcome: what is wrong, status, seconds, peak memory, first line said."""
    lines = [
        "| input | command | status | s | CPU s | MB | said | wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        said = each.said.replace("|", "\\|")[:120]
        lines.append(
            f"| {each.kind}: {each.name} | {each.command} | {each.status} | {each.seconds:.1f} | "
            f"{each.cpu_seconds:.1f} | {each.megabytes} | {said} | {'; '.join(each.wrong)[:300]} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--only", default="", help="inputs whose kind and name contain this")
    parser.add_argument("--one-in", type=int, default=1, help="give one of so many of a kind")
    parser.add_argument("--table", type=Path, help="file for the table of outcomes")
    parser.add_argument("--json", type=Path, help="the same for programs")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--patience", type=float, default=1.0, help="times as long")
    given = parser.parse_args()
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="hostile-")))
    try:
        outcomes = run_all(folder, given)
    finally:
        remove(folder)
    if given.table:
        given.table.write_text(table(outcomes), encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    num_wrong = sum(not is_right(each) for each in outcomes)
    inputs = {(each.kind, each.name) for each in outcomes}
    print(f"{len(inputs)} inputs, {len(outcomes)} commands, {num_wrong} not as they should be")
    sys.exit(bool(num_wrong))


if __name__ == "__main__":
    main()
