"""The hub: folders, a hub on this machine, and what happens where none can be reached."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import byola_rq
from byola_rq import CheckpointError, Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.export.model_card import TEMPLATE, write_model_card
from byola_rq.hub import HubEmbedder
from tests.conftest import ROOT, SMALL
from tests.hub_server import serve_hub
from tests.refusal import refused


def make_embedder(license: str | None = "CC-BY-4.0") -> Embedder:
    plain = Embedder.untrained(dim=16, seed=3)
    summary = {"steps": 1200, "augmentations": ["mixup", "fader"], "note": "a | b\n## c"}
    return Embedder(plain.encoder, plain.frontend, Statistics(-7.25, 4.5), summary, license)


def call(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose hub is the environment's."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_folder_gives_back_the_model(tmp_path: Path) -> None:
    embedder = make_embedder()
    model = HubEmbedder.of(embedder)
    assert model.save_pretrained(tmp_path / "model") is None
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["README.md", "config.json", "encoder.safetensors"]
    waveform = torch.rand(2, 12345, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = embedder(waveform, 16000)
    loaded = HubEmbedder.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(waveform, 16000), expected)
    assert torch.equal(model(waveform, 16000), expected)
    plain = byola_rq.load(tmp_path / "model" / "encoder.safetensors")
    assert torch.equal(plain(waveform, 16000), expected)
    for each in (loaded, plain):
        assert each.statistics == embedder.statistics
        assert each.summary == embedder.summary
        assert each.license == "CC-BY-4.0"
    assert not loaded.train().encoder.training
    # And again from what was loaded, with the same weights.
    loaded.save_pretrained(tmp_path / "again")
    for name in names:
        first, second = (tmp_path / folder / name for folder in ("model", "again"))
        assert first.read_bytes() == second.read_bytes(), name


def test_the_description_is_there_to_read(tmp_path: Path) -> None:
    embedder = make_embedder()
    HubEmbedder.of(embedder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["byola_rq"] == {**embedder.description, "training": embedder.summary}


def test_the_card_says_what_the_file_says_and_no_more(tmp_path: Path) -> None:
    embedder = make_embedder()
    HubEmbedder.of(embedder).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card == write_model_card(embedder)
    assert "$" not in card
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["library_name"] == "byola_rq"
    num_parameters = sum(value.numel() for value in embedder.encoder.parameters())
    for fact in (
        f"{num_parameters:,} parameters",
        "one every 80 ms",
        "at least 0.1 s",
        "log-mel mean -7.25, standard deviation 4.5",
        embedder.weights_sha256,
        "| steps | 1200 |",
        r'| augmentations | \["mixup", "fader"\] |',
        "| note | a \\| b ## c |",
        "| license of the weights | CC-BY-4.0 |",
        "stores no scores",
    ):
        assert fact in card, fact
    # Every figure is one of the description, the summary, or the words of the template.
    known = TEMPLATE + json.dumps([embedder.description, embedder.summary])
    known += f"{num_parameters:,} 80 0.1 CC-BY-4.0"
    figures = set(re.findall(r"(?<![\w.])\d[\d.,]*\d|(?<![\w.,])\d(?![\w.,])", card.lower()))
    assert figures
    assert [each for each in figures if each not in known.lower()] == []


def test_licenses_are_stated_as_they_are() -> None:
    card = write_model_card(make_embedder(None))
    assert not {"license", "license_name"} & yaml.safe_load(card.split("---")[1]).keys()
    assert "| license of the weights | not stated |" in card
    card = write_model_card(make_embedder('My "own" terms: see LICENCE'))
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "other"
    assert header["license_name"] == 'My "own" terms: see LICENCE'
    plain = Embedder.untrained(dim=8)
    plain.summary.clear()
    assert "no information about its training" in write_model_card(plain)


def test_the_template_in_the_documentation_is_the_one_used() -> None:
    assert (ROOT / "docs" / "model_card.md").read_text() == TEMPLATE


def test_a_card_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    HubEmbedder.of(make_embedder()).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


ROUND_TRIP = """
import torch, byola_rq
from byola_rq.hub import HubEmbedder
model = byola_rq.load("model.safetensors")
print(HubEmbedder.of(model).push_to_hub("owner/name", token="hf_none", commit_message="first"))
waveform = torch.linspace(-0.5, 0.5, 16000)
for other in (byola_rq.load("owner/name"), HubEmbedder.from_pretrained("owner/name")):
    assert torch.equal(other(waveform, 16000), model(waveform, 16000))
    assert other.license == "CC-BY-4.0"
"""


def test_pushed_and_loaded_from_a_hub_on_this_machine(tmp_path: Path, sounds: Path) -> None:
    make_embedder().save(tmp_path / "encoder.safetensors")
    code = ROUND_TRIP.replace("model.safetensors", str(tmp_path / "encoder.safetensors"))
    cache = str(tmp_path / "cache")
    with serve_hub() as (address, files, log):
        done = call(code, HF_ENDPOINT=address, HF_HOME=cache)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{address}/owner/name/commit/")
        assert sorted(files) == ["README.md", "config.json", "encoder.safetensors"]
        stored = (tmp_path / "encoder.safetensors").read_bytes()
        assert files["encoder.safetensors"] == stored
        assert 'from_pretrained("owner/name")' in files["README.md"].decode()
        assert any("/commit/" in line for line in log)
        # What the hub does not have.
        del files["encoder.safetensors"]
        failed = call(
            "from byola_rq.model.hub_download import download_model_file as d\n"
            "try:\n    d('owner/name', force_download=True)\n"
            "except Exception as error:\n    print(type(error).__name__, error)",
            HF_ENDPOINT=address,
            HF_HOME=str(tmp_path / "other"),
        )
        assert failed.stdout.startswith("CheckpointError owner/name: "), failed.stderr
        assert failed.stdout.count("\n") == 1
    # The hub is gone, and what came from it stays.
    code = "import byola_rq; print(byola_rq.load('owner/name').embedding_dim)"
    done = call(code, HF_ENDPOINT=address, HF_HOME=cache, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, "16\n"), done.stderr
    # A run starts from it as well.
    options = [*SMALL, f"data.source={sounds}", f"run.dir={tmp_path / 'run'}"]
    arguments = ["pretrain", *options, "encoder.init=owner/name", "encoder.freeze_steps=4"]
    code = f"from byola_rq.cli.app import main; main({arguments})"
    done = call(code, HF_ENDPOINT=address, HF_HOME=cache, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    model = byola_rq.load(tmp_path / "run" / "encoder.safetensors")
    for name, parameter in make_embedder().encoder.named_parameters():
        assert torch.equal(model.encoder.get_parameter(name), parameter)


OFFLINE = """
import byola_rq
from byola_rq.hub import HubEmbedder
model = HubEmbedder.of(byola_rq.Embedder.untrained(dim=8))
for call in (
    lambda: byola_rq.load("owner/name"),
    lambda: HubEmbedder.from_pretrained("owner/name"),
    lambda: model.push_to_hub("owner/name", token="hf_none"),
):
    try:
        call()
    except byola_rq.CheckpointError as error:
        print(error.code, error.key, str(error).count("\\n"), str(error).startswith(error.key))
"""


@pytest.mark.parametrize("way", ["told to stay offline", "no connection"])
def test_offline_an_id_is_one_clear_line(tmp_path: Path, way: str) -> None:
    offline = {"HF_HUB_OFFLINE": "1"} if way == "told to stay offline" else {}
    # Nobody listens on port 9.
    done = call(OFFLINE, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), **offline)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 3 * "unreachable owner/name 0 True\n"
    assert done.stderr == ""


def test_wrong_folders_and_ids_are_refused(tmp_path: Path) -> None:
    with refused(CheckpointError, "missing", tmp_path / "encoder.safetensors"):
        HubEmbedder.from_pretrained(tmp_path)
    with refused(CheckpointError, "unreachable", key="a/b/c"):
        HubEmbedder.from_pretrained("a/b/c")
    (tmp_path / "file").write_text("")
    with refused(CheckpointError, "unwritable", tmp_path / "file" / "below"):
        HubEmbedder.of(make_embedder()).save_pretrained(tmp_path / "file" / "below")


def test_the_library_imports_without_the_hub() -> None:
    code = (
        "import sys, byola_rq, byola_rq.embed.embedder\n"
        "print(sorted({'huggingface_hub', 'sklearn', 'torch'} & set(sys.modules)))\n"
        "sys.modules['huggingface_hub'] = None\n"
        "try:\n    import byola_rq.hub\n"
        "except byola_rq.ByolaRQError as error:\n    print(error.code, error.key)\n"
        "byola_rq.Embedder.untrained(dim=8)"
    )
    done = call(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['torch']", "missing huggingface_hub"]
