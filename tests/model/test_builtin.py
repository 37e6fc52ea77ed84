"""The encoder that comes with the package: its identity, its card, and every way to it."""

import csv
import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import byola_rq
from byola_rq import CheckpointError, Embedder, hear
from byola_rq.cli.app import main
from byola_rq.cli.doctor import examine
from byola_rq.export.model_card import write_model_card
from byola_rq.model import builtin
from evaluate.__main__ import app as evaluate_app
from tests.conftest import ROOT
from tests.refusal import refused

FOLDER = ROOT / "byola_rq" / "model"
CARD = (FOLDER / "builtin.md").read_text(encoding="utf-8")


def call(*arguments: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert (left.value.code or 0) == status


@pytest.fixture(scope="module")
def sources() -> list[dict[str, str]]:
    with gzip.open(FOLDER / "builtin_sources.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_file_is_the_one_that_is_named() -> None:
    path = builtin.builtin_path()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == builtin.SHA256
    assert builtin.VERSION in CARD
    assert builtin.SHA256 in CARD
    (finding,) = (each for each in examine() if each.name == "built-in encoder")
    assert finding.status == "ok"
    assert builtin.VERSION in finding.detail
    assert builtin.SHA256 in finding.detail


def test_it_is_what_is_loaded_without_a_name(tmp_path: Path) -> None:
    model = byola_rq.load()
    waveform = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    expected = byola_rq.load(builtin.builtin_path())(waveform, 16000)
    assert expected.shape == (2, 512)
    for other in (model, byola_rq.load("builtin"), hear.load_model().embedder):
        assert torch.equal(other(waveform, 16000), expected)
    # What it is goes with it into other files; other models have no release.
    assert model.release == builtin.IDENTITY
    model.save(tmp_path / "again.safetensors")
    assert byola_rq.load(tmp_path / "again.safetensors").release == builtin.IDENTITY
    assert builtin.VERSION in write_model_card(model)
    assert not Embedder.untrained(dim=8).release


def test_a_near_miss_gets_the_right_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("builtn", "built-in", "Builtin"):
        with refused(CheckpointError, "unknown", Path(name), value=name) as caught:
            byola_rq.load(name)
        assert "builtin" in str(caught.value)
    with refused(CheckpointError, "missing", Path("encoder")):
        byola_rq.load("encoder")
    # A file of such a name is a file.
    Embedder.untrained(dim=8).save("builtn")
    assert byola_rq.load("builtn").embedding_dim == 8
    Embedder.untrained(dim=8).save("builtin")
    assert byola_rq.load("./builtin").embedding_dim == 8
    assert byola_rq.load("builtin").embedding_dim == 512


def test_a_damaged_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = builtin.builtin_path().read_bytes()
    damaged = tmp_path / "builtin.safetensors"
    monkeypatch.setattr(builtin, "__file__", str(tmp_path / "builtin.py"))
    with refused(CheckpointError, "missing", damaged):
        byola_rq.load()
    # A bit of a weight, of the description, and what a broken download leaves.
    for broken in (
        content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        content[:300] + bytes([content[300] ^ 1]) + content[301:],
        content[:1000],
    ):
        damaged.write_bytes(broken)
        with refused(CheckpointError, "damaged", damaged) as caught:
            byola_rq.load()
        assert "pip install" in str(caught.value)
    (finding,) = (each for each in examine() if each.name == "built-in encoder")
    assert finding.is_failure
    call("embed", tmp_path, "-o", tmp_path / "out", "--device", "cpu", status=2)
    assert capsys.readouterr().err.count("\n") == 1


def test_embed_without_a_model(sounds: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in sorted(sounds.glob("*.wav"))[:3]:
        (clips / path.name).symlink_to(path)
    call("embed", clips, "-o", tmp_path / "out", "--device", "cpu")
    rows = np.load(tmp_path / "out" / "embeddings.npy", allow_pickle=False)
    expected = byola_rq.load().embed_files(sorted(clips.iterdir()))
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["release"] == builtin.IDENTITY
    # The same weights by another way are the same job; other models have no release.
    call("embed", clips, "-o", tmp_path / "out", "--model", builtin.builtin_path())
    small = tmp_path / "small.safetensors"
    Embedder.untrained(dim=8).save(small)
    call("embed", clips, "-o", tmp_path / "small", "--model", small, "--device", "cpu")
    assert "release" not in json.loads((tmp_path / "small" / "meta.json").read_text())


def test_what_embed_refuses(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "encoder.safetensors"
    Embedder.untrained(dim=8).save(model)
    for arguments, told in (
        ([model, sounds], f"{model}: "),  # the place that models had before --model
        ([sounds, "--model", tmp_path / "gone.safetensors"], f"{tmp_path}/gone.safetensors: "),
        ([sounds, "--model", "builtn"], "builtn: "),
    ):
        call("embed", *arguments, "-o", tmp_path / "out", status=2)
        error = capsys.readouterr().err
        assert error.startswith(f"error: {told}")
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_evaluate_without_a_model(sounds: Path, tmp_path: Path) -> None:
    paths = sorted(sounds.glob("*.wav"))
    lines = [
        f"{path},{'ab'[number % 2]},{('train', 'train', 'valid', 'test')[number // 2 % 4]}"
        for number, path in enumerate(paths)
    ]
    (tmp_path / "set.csv").write_text("\n".join(["file_name,label,split", *lines, ""]))
    arguments = ["--task", tmp_path / "set.csv", "--out", tmp_path / "out", "--device", "cpu"]
    for more in ([], ["builtin", "--baseline", "random"]):  # of which the first is done already
        result = CliRunner().invoke(evaluate_app, [str(word) for word in (*arguments, *more)])
        assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    facts = [(row["model"], row["model_version"], row["embedding_dim"]) for row in rows]
    assert facts == [("builtin", builtin.VERSION, "512"), ("random", "", "512")]
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert f"builtin: {builtin.VERSION}, weights of SHA-256 {rows[0]['weights_sha256']}" in summary


def test_the_card_counts_and_credits_every_source(sources: list[dict[str, str]]) -> None:
    counts = re.findall(r"^\| .* \| ([\d,]+) \| \d\.\d\d \|$", CARD, flags=re.MULTILINE)
    *parts, total = (int(count.replace(",", "")) for count in counts)
    assert sum(parts) == total == len(sources)
    hours = sum(float(row["duration_s"]) for row in sources) / 3600
    assert f"{len(sources):,} clips, {hours:.2f} hours" in CARD
    credits_ = CARD[CARD.index("## Credits") :]
    for row in sources:
        words = row["source"].removeprefix("github ").removeprefix("Debian ").split()
        name = words[0].partition("@")[0]
        if "BY" in row["licence"]:
            assert name in credits_[: credits_.index("Sources under")], row
        elif "generated" not in row["licence"] and name != "sequenced":
            assert name in credits_, row
