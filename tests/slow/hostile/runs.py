"""Run directories: checkpoints, configurations, metrics, links in the place of files."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.slow.hostile.case import (
    FORMULA,
    NAMED,
    READ,
    SPOILED,
    Case,
    Made,
    link,
    nested,
    pipe,
    put,
)
from tests.slow.hostile.models import tensors

EXPORT = "export in/r out/x.safetensors"
BEST = "export in/r out/x.safetensors --best"
RUNS = "runs in/r"
RESUME = "pretrain {small} run.dir=in/r data.source={packed} train.max_steps=5"
STEP = "step-00000004"

Change = Callable[[Path], object]


def _run(change: Change) -> Callable[[Path, Made], None]:
    def make(place: Path, made: Made) -> None:
        shutil.copytree(made.folder / "run", place / "in/r")
        shutil.rmtree(place / "in/r/step-00000002")
        change(place / "in/r")

    return make


def _sign(folder: Path) -> None:
    """Let a checkpoint's manifest tell what its files now are."""
    manifest = {}
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        data = (folder / name).read_bytes()
        manifest[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    put(folder / "manifest.json", manifest)


def _state(change: Callable[[dict[str, Any]], object]) -> Change:
    def change_it(run: Path) -> None:
        state = json.loads((run / STEP / "state.json").read_text())
        change(state)
        put(run / STEP / "state.json", state)
        _sign(run / STEP)

    return change_it


def _config(section: str, **values: Any) -> Change:
    return _state(lambda state: state["config"][section].update(values))


def _state_text(text: str) -> Change:
    def change_it(run: Path) -> None:
        put(run / STEP / "state.json", text)
        _sign(run / STEP)

    return change_it


def _tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change_it(run: Path) -> None:
        path = run / STEP / f"{name}.safetensors"
        values = load_file(path)
        change(values)
        save_file(values, path)
        _sign(run / STEP)

    return change_it


def _bytes(name: str, data: bytes) -> Change:
    def change_it(run: Path) -> None:
        put(run / STEP / name, data)
        _sign(run / STEP)

    return change_it


def _manifest(change: Callable[[dict[str, Any]], object]) -> Change:
    def change_it(run: Path) -> None:
        path = run / STEP / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        put(path, manifest)

    return change_it


def _named(name: str) -> Change:
    return _manifest(lambda manifest: manifest.update({name: {"size": 0, "sha256": "0"}}))


def _listed_pipe(run: Path) -> None:
    pipe(run / STEP / "more")
    _named("more")(run)


CHECKPOINTS: dict[str, Change] = {
    "a manifest without end": lambda run: put(run / STEP / "manifest.json", nested()),
    "a manifest that is a list": lambda run: put(run / STEP / "manifest.json", "[]"),
    "a manifest that is a FIFO": lambda run: pipe(run / STEP / "manifest.json"),
    "a manifest that is an endless device": lambda run: link(
        run / STEP / "manifest.json", "/dev/zero"
    ),
    "a manifest that names a FIFO": _listed_pipe,
    "a manifest that names an endless device": _named("/dev/zero"),
    "a manifest that climbs": _named("../../../around/victim.txt"),
    "a manifest that spoils": _named(SPOILED),
    "a manifest with a null": _named("a\0b"),
    "a state without end": _state_text(nested()),
    "a state of braces without end": _state_text(nested('{"a":', "}", 50_000)),
    "a state that is a list": _state_text("[]"),
    "a state of half a surrogate": _state_text('{"step": "\\ud800"}'),
    "a state of nothing": _state_text("{}"),
    "a state of no version": _state(lambda state: state.pop("format_version")),
    "a version of text": _state(lambda state: state.update(format_version=SPOILED)),
    "a step of text": _state(lambda state: state.update(step="4")),
    "no configuration": _state(lambda state: state.pop("config")),
    "a configuration that is a list": _state(lambda state: state.update(config=[])),
    "10**10 bands": _config("frontend", n_mels=8 * 10**9),
    "a million bands": _config("frontend", n_mels=800_000),
    "an FFT of 2**40": _config("frontend", n_fft=2**40),
    "a rate of 10**12": _config("frontend", sample_rate=10**12),
    "10**12 dimensions": _config("encoder", dim=10**12),
    "10**7 dimensions": _config("encoder", dim=10**7),
    "an encoder of nobody": _config("encoder", name=SPOILED),
    "an encoder that is null": _state(lambda state: state["config"].update(encoder=None)),
    "statistics of text": _state(lambda state: state.update(statistics={"mean": "a", "std": "b"})),
    "statistics of NaN": _state(lambda state: state.update(statistics={"mean": 1e999, "std": 0})),
    "no statistics": _state(lambda state: state.pop("statistics")),
    "no weights": _tensors("model", dict.clear),
    "weights of another shape": _tensors(
        "model", lambda values: values.update({name: torch.zeros(3) for name in values})
    ),
    "weights that are none": _bytes("model.safetensors", tensors(nested(depth=400_000))),
    "weights cut": _bytes("model.safetensors", b"\1"),
}
RESUMED: dict[str, Change] = {
    "an optimizer of nobody": _tensors(
        "optimizer", lambda values: values.update({"x.y": torch.zeros(1)})
    ),
    "an optimizer of 10**9 parameters": _tensors(
        "optimizer", lambda values: values.update({"999999999.exp_avg": torch.zeros(1)})
    ),
    "an optimizer of other shapes": _tensors(
        "optimizer", lambda values: values.update({name: torch.zeros(3) for name in values})
    ),
    "no optimizer": _tensors("optimizer", dict.clear),
    "a state of nothing": _state_text('{"step": 4, "format_version": 1}'),
    "ranks of text": _state(lambda state: state.update(num_ranks=SPOILED)),
    "a spoiled configuration": _config("optimizer", lr=f"{SPOILED}\n"),
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
    "a removed checkpoint that is a link": lambda run: link(
        run / ".step-00000003.removed", "../../around/folder"
    ),
    "a partial file that is a link": lambda run: link(
        run / ".config.yaml.00.partial", "../../around/victim.txt"
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
    for name, change in CHECKPOINTS.items():
        yield Case("checkpoint", name, (EXPORT,), _run(change))
    for name, change in RESUMED.items():
        yield Case("run", name, (RESUME,), _run(change), NAMED, out="in/r")
    for name, (change, statuses) in TOLD.items():
        yield Case("run", f"{name}, told", (RUNS,), _run(change), statuses)
    for name, best in BESTS.items():
        make = _run(lambda run, best=best: put(run / "best.json", best))
        yield Case("run", f"a best {name}", (BEST,), make)
    for name in ("step-00000004", "step-99999999999999999999", ".step-00000009.replaced"):
        linked = _run(lambda run, name=name: _link_step(run, name))
        yield Case("run", f"{name} is a link", (EXPORT,), linked, NAMED)


def _link_step(run: Path, name: str) -> None:
    shutil.rmtree(run / STEP)
    link(run / name, "../../around/folder")
