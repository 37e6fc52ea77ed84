"""The harmless things: sounds, a model file, a packed corpus, a run, embeddings, results."""

import os
from pathlib import Path

import numpy as np
import soundfile

from byola_rq import Embedder
from byola_rq.config import default_config_path, load_config
from tests.conftest import SMALL
from tests.slow.hostile.commands import COMMANDS

RATE = 16_000


def make_harmless(folder: Path) -> None:
    """Make them, with the commands that hostile ones are given to."""
    random = np.random.default_rng(0)
    for name, seconds in (("sounds/a", 1.1), ("sounds/b", 1.2), ("sounds/c", 1.3), ("clip", 1.0)):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, random.normal(0, 0.1, round(seconds * RATE)), RATE)
    rows = ["file_name,label,split"]
    for number in range(12):
        path = folder / "labelled" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        tone = np.sin(np.arange(RATE // 2) * (0.1 + 0.3 * (number % 2)))
        soundfile.write(path, 0.3 * tone + random.normal(0, 0.05, RATE // 2), RATE)
        rows.append(f"labelled/{number}.wav,{'ab'[number % 2]},{['train', 'test'][number > 7]}")
    (folder / "labelled.csv").write_text("\n".join(rows) + "\n")
    Embedder.untrained(dim=16).save(folder / "model.safetensors")
    os.chdir(folder)
    config = load_config(default_config_path(), [*SMALL, "data.source=packed", "run.dir=run"])
    (folder / "small.yaml").write_text(config.to_yaml())
    for command in (
        "prepare sounds packed --workers 1",
        "pretrain small.yaml",
        "embed sounds -o embeddings --model model.safetensors --device cpu --workers 1",
        "classify labelled.csv embeddings -o predictions.csv --save classifier.safetensors "
        "--model model.safetensors --device cpu --workers 1",
        "evaluate model.safetensors --task labelled.csv --out results --device cpu --workers 1 "
        "--unit-seconds 0.5 --probe knn --baseline logmel",
    ):
        words = command.split()
        try:
            COMMANDS.get(words[0], COMMANDS["byola-rq"])(words)
        except SystemExit as end:
            if end.code:
                raise
