"""Run directories: checkpoints, configurations, metrics, links in the place of files."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.slow.hostile.case import (
    FORMULA,
    NAMED,
    READ,
    SPOILED,
    Case,
    Change,
    link,
    nested,
    pipe,
    put,
)
from tests.slow.hostile.checkpoints import (
    EXPORT,
    STEP,
    changed_tensors,
    config,
    run_of,
    state,
    state_text,
)

BEST = "export in/r out/x.safetensors --best"
RUNS = "runs in/r"
RESUME = "pretrain {small} run.dir=in/r data.source={packed} train.max_steps=5"


RESUMED: dict[str, Change] = {
    "an optimizer of nobody": changed_tensors(
        "optimizer", lambda values: values.update({"x.y": torch.zeros(1)})
    ),
    "an optimizer of 10**9 parameters": changed_tensors(
        "optimizer", lambda values: values.update({"999999999.exp_avg": torch.zeros(1)})
    ),
    "an optimizer of other shapes": changed_tensors(
        "optimizer", lambda values: values.update({name: torch.zeros(3) for name in values})
    ),
    "no optimizer": changed_tensors("optimizer", dict.clear),
    "a state of nothing": state_text('{"step": 4, "format_version": 1}'),
    "ranks of text": state(lambda state: state.update(num_ranks=SPOILED)),
    "a spoiled configuration": config("optimizer", lr=f"{SPOILED}\n"),
    "metrics of other columns": lambda run: put(run / "metrics.csv", f"{SPOILED},step\n1,2\n"),
    "metrics of text": lambda run: put(
        run / "metrics.csv", (run / "metrics.csv").read_text().replace("\n2,", f"\n{SPOILED},")
    ),
    "metrics that are a FIFO": lambda run: pipe(run / "metrics.csv"),
    "a lock that is a link": lambda run: link(run / ".lock", "../../around/victim.txt"),
    "a lock that is a FIFO": lambda run: pipe(run / ".lock"),
    "a configuration that is a link": lambda run: link(
        run / "config.yaml", "../../around/victim.txt"
    ),
    "metrics that are a link": lambda run: link(run / "metrics.csv", "../../around/victim.txt"),
    "a model that is a link": lambda run: link(
        run / "encoder.safetensors", "../../around/victim.txt"
    ),
    "a partial checkpoint that is a link": lambda run: link(
        run / ".step-00000005.partial", "../../around/folder"
    ),
    "a checkpoint that is a link": lambda run: link(run / "step-00000001", "../../around/folder"),
}


def _yaml(change: Callable[[dict[str, Any]], object]) -> Change:
    def change_it(run: Path) -> None:
        values = yaml.safe_load((run / "config.yaml").read_text())
        change(values)
        put(run / "config.yaml", yaml.safe_dump(values))

    return change_it


def _metrics(line: str) -> Change:
    return lambda run: put(run / "metrics.csv", (run / "metrics.csv").read_text() + line)


TOLD: dict[str, tuple[Change, frozenset[int]]] = {
    "a configuration of aliases": (
        lambda run: put(
            run / "config.yaml",
            "a0: &a0 [x,x]\n"
            + "\n".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))
            + "\nencoder: *a29\n",
        ),
        frozenset({1, 2}),
    ),
    "a configuration without end": (
        lambda run: put(run / "config.yaml", nested()),
        frozenset({1, 2}),
    ),
    "a configuration in itself": (
        lambda run: put(run / "config.yaml", "a: &a {b: *a}\n"),
        frozenset({1, 2}),
    ),
    "a configuration that is a FIFO": (lambda run: pipe(run / "config.yaml"), frozenset({1, 2})),
    "a configuration of a date": (
        lambda run: put(run / "config.yaml", "a: 2024-99-99\n"),
        frozenset({1, 2}),
    ),
    "a spoiled encoder": (_yaml(lambda values: values["encoder"].update(name=SPOILED)), READ),
    "spoiled augmentations": (
        _yaml(lambda values: values["views"].update(augmentations=[SPOILED, {"a": [1]}, 3])),
        NAMED,
    ),
    "a batch of 10**400": (
        _yaml(lambda values: values["train"].update(batch_size=10**400)),
        NAMED,
    ),
    "epochs below zero": (_yaml(lambda values: values["train"].update(epochs=-(10**30))), NAMED),
    "segments of 10**400": (
        _yaml(lambda values: values["train"].update(segments=10**400, batch_size=0)),
        NAMED,
    ),
    "metrics of infinity": (_metrics(f"{'1e999,' * 11}1e999\n"), NAMED),
    "metrics of NaN": (_metrics(f"{'nan,' * 11}nan\n"), NAMED),
    "metrics of nulls": (_metrics("\0" * 9 + "\n"), NAMED),
    "metrics of a spoiled column": (
        lambda run: put(run / "metrics.csv", f"step,loss,{SPOILED},{FORMULA}\n1,2,3,4\n"),
        NAMED,
    ),
    "metrics that are a FIFO": (lambda run: pipe(run / "metrics.csv"), NAMED),
    "metrics that are an endless device": (
        lambda run: link(run / "metrics.csv", "/dev/zero"),
        NAMED,
    ),
    "a best that is a FIFO": (lambda run: pipe(run / "best.json"), NAMED),
    "a best without end": (lambda run: put(run / "best.json", nested()), NAMED),
}
BESTS: dict[str, Any] = {
    "without end": nested(),
    "of another place": {"step": 10**30, "score": 1, "measured_by": "../../around"},
    "of a step of text": {"step": SPOILED, "score": 1, "measured_by": ""},
    "of a score of NaN": {"step": 4, "score": float("nan"), "measured_by": ""},
    "of half a surrogate": '{"step": "\\ud800", "score": 1, "measured_by": ""}',
    "that is a list": [],
}


def cases() -> Iterator[Case]:
    for name, change in RESUMED.items():
        yield Case("run", name, (RESUME,), run_of(change), NAMED, out="in/r")
    for name, (change, statuses) in TOLD.items():
        yield Case("run", f"{name}, told", (RUNS,), run_of(change), statuses)
    for name, best in BESTS.items():
        make = run_of(lambda run, best=best: put(run / "best.json", best))
        yield Case("run", f"a best {name}", (BEST,), make)
    for name in ("step-00000004", "step-99999999999999999999", ".step-00000009.replaced"):
        linked = run_of(lambda run, name=name: _link_step(run, name))
        yield Case("run", f"{name} is a link", (EXPORT,), linked, NAMED)


def _link_step(run: Path, name: str) -> None:
    shutil.rmtree(run / STEP)
    link(run / name, "../../around/folder")
