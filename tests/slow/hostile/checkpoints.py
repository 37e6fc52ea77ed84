"""Checkpoints: manifests, states, weights of strangers."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.slow.hostile.case import (
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
from tests.slow.hostile.models import tensors

EXPORT = "export in/r out/x.safetensors"
STEP = "step-00000004"


def run_of(change: Change) -> Callable[[Path, Made], None]:
    def leave_last(run: Path) -> None:
        shutil.rmtree(run / "step-00000002")
        change(run)

    return changed("run", "in/r", leave_last)


def _sign(folder: Path) -> None:
    """Let a checkpoint's manifest tell what its files now are."""
    manifest = {}
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        data = (folder / name).read_bytes()
        manifest[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    put(folder / "manifest.json", manifest)


def state(change: Callable[[dict[str, Any]], object]) -> Change:
    def change_it(run: Path) -> None:
        state = json.loads((run / STEP / "state.json").read_text())
        change(state)
        put(run / STEP / "state.json", state)
        _sign(run / STEP)

    return change_it


def config(section: str, **values: Any) -> Change:
    return state(lambda state: state["config"][section].update(values))


def state_text(text: str) -> Change:
    def change_it(run: Path) -> None:
        put(run / STEP / "state.json", text)
        _sign(run / STEP)

    return change_it


def changed_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
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
    "a state without end": state_text(nested()),
    "a state of braces without end": state_text(nested('{"a":', "}", 50_000)),
    "a state that is a list": state_text("[]"),
    "a state of half a surrogate": state_text('{"step": "\\ud800"}'),
    "a state of nothing": state_text("{}"),
    "a state of no version": state(lambda state: state.pop("format_version")),
    "a version of text": state(lambda state: state.update(format_version=SPOILED)),
    "a step of text": state(lambda state: state.update(step="4")),
    "no configuration": state(lambda state: state.pop("config")),
    "a configuration that is a list": state(lambda state: state.update(config=[])),
    "10**10 bands": config("frontend", n_mels=8 * 10**9),
    "a million bands": config("frontend", n_mels=800_000),
    "an FFT of 2**40": config("frontend", n_fft=2**40),
    "a rate of 10**12": config("frontend", sample_rate=10**12),
    "10**12 dimensions": config("encoder", dim=10**12),
    "10**7 dimensions": config("encoder", dim=10**7),
    "an encoder of nobody": config("encoder", name=SPOILED),
    "an encoder that is null": state(lambda state: state["config"].update(encoder=None)),
    "statistics of text": state(lambda state: state.update(statistics={"mean": "a", "std": "b"})),
    "statistics of NaN": state(lambda state: state.update(statistics={"mean": 1e999, "std": 0})),
    "no statistics": state(lambda state: state.pop("statistics")),
    "no weights": changed_tensors("model", dict.clear),
    "weights of another shape": changed_tensors(
        "model", lambda values: values.update({name: torch.zeros(3) for name in values})
    ),
    "weights that are none": _bytes("model.safetensors", tensors(nested(depth=400_000))),
    "weights cut": _bytes("model.safetensors", b"\1"),
}


def cases() -> Iterator[Case]:
    for name, change in CHECKPOINTS.items():
        yield Case("checkpoint", name, (EXPORT,), run_of(change))
