"""Files of strangers: `tests/slow/hostile` gives each to the commands that read it.

Half of them here; `python -m tests.slow.hostile` gives all 536.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.slow.hostile.misbehavior import KIND

KINDS = {
    "audio", "checkpoint", "classifier", "corpus.json", "csv", "embeddings", "folder",
    "index", "labelled csv", "model file", "npy", "override", "page", "parquet", "parts",
    "published set", "questions", "results", "run", "segment list", "tar", "tsv", "weights", "yaml",
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("hostile") / "outcomes.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.slow.hostile", "--one-in", "2", "--json", path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert path.exists(), done.stderr
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_every_input_is_read_or_refused_in_one_line_and_harms_nothing(
    outcomes: list[dict[str, Any]],
) -> None:
    said = [
        (each["kind"], each["name"], each["command"], each["wrong"])
        for each in outcomes
        if each["kind"] != KIND and each["wrong"]
    ]
    assert said == []


def test_what_no_command_may_do_is_seen(outcomes: list[dict[str, Any]]) -> None:
    done = {each["name"]: each["wrong"] for each in outcomes if each["kind"] == KIND}
    assert len(done) > 10
    assert [name for name, wrong in done.items() if not wrong] == []


def test_there_are_many_of_every_kind(outcomes: list[dict[str, Any]]) -> None:
    """Check also that some commands succeed and some reject their input."""
    inputs = {(each["kind"], each["name"]) for each in outcomes if each["kind"] != KIND}
    assert len(inputs) >= 200
    assert {kind for kind, _ in inputs} == KINDS
    statuses = [each["status"] for each in outcomes]
    assert statuses.count(0) > 20
    assert {0, 2} <= set(statuses)
