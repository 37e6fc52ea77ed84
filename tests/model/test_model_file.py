"""Model files: they read back what was written, in all versions, and nothing else."""

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import byola_rq
from byola_rq import CheckpointError, Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.cli.app import main
from byola_rq.config import Config
from byola_rq.embed.embedder import load
from byola_rq.errors import Code
from byola_rq.model.model_file import read_description, write_model_file
from tests.conftest import ROOT
from tests.refusal import refused

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    model = Embedder.untrained(dim=8, seed=3).with_statistics(Statistics(-7.5, 4.5))
    model.license = "CC-BY-4.0"
    model.summary = {"steps": 7, "hours": 0.1, "of": {"10": [1, 2.5], "9": None}}
    return model


@pytest.fixture
def path(embedder: Embedder, tmp_path: Path) -> Path:
    embedder.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def sweep(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 * time + 900 * time**2))
    return (0.3 * tone * (1 + np.sin(2 * np.pi * 5 * time)) / 2).astype(np.float32)


def test_the_first_file_of_this_format_loads_for_ever() -> None:
    expected = json.loads((FIXTURES / "encoder-v1.json").read_text())
    model = byola_rq.load(FIXTURES / "encoder-v1.safetensors")
    assert model.summary == expected["summary"]
    assert model.license == expected["licence"] == "CC0-1.0"
    assert model.statistics == Statistics(*expected["statistics"])
    for sound, embedding in expected["embeddings"].items():
        seconds, rate = float(sound.split()[0]), int(sound.split()[3])
        ours = model(sweep(seconds, rate), rate)[0]
        torch.testing.assert_close(ours, torch.tensor(embedding), atol=1e-4, rtol=1e-4)
    frames, _ = model.frames(sweep(1.3, 16000), 16000)
    torch.testing.assert_close(frames[0], torch.tensor(expected["frames"]), atol=1e-4, rtol=1e-4)


def test_a_file_gives_back_what_was_written(embedder: Embedder, path: Path) -> None:
    loaded = byola_rq.load(path)
    assert loaded.license == "CC-BY-4.0"
    assert loaded.summary == embedder.summary
    assert loaded.description == embedder.description
    description, shapes = read_description(path)
    assert description["weights_sha256"] == embedder.weights_sha256
    assert shapes == {k: tuple(v.shape) for k, v in embedder.encoder.state_dict().items()}
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044 & ~_umask()


def test_the_license_is_read_in_either_spelling(embedder: Embedder, path: Path) -> None:
    description, _ = read_description(path)
    description["licence"] = description.pop("license")
    write_model_file(path, description, embedder.encoder.state_dict())
    assert byola_rq.load(path).license == "CC-BY-4.0"


def _umask() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Umask")).split()[1], 8)


def test_loading_draws_no_random_number_and_holds_no_file(path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model = byola_rq.load(path)
    assert torch.equal(torch.rand(1), expected)
    digest = model.weights_sha256
    with path.open("r+b") as file:  # the very file, not another of its name
        file.seek(-4000, 2)
        file.write(bytes(4000))
    assert model.weights_sha256 == digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(embedder: Embedder, path: Path, dtype: torch.dtype) -> None:
    waveform = torch.from_numpy(sweep(1.0, 16000))
    expected = embedder(waveform, 16000)
    half = byola_rq.load(path, dtype=dtype)
    assert next(half.encoder.parameters()).dtype == dtype
    ours = half(waveform, 16000)
    assert ours.dtype == torch.float32
    assert 0 < (ours - expected).norm() < 0.02 * expected.norm()
    pooled = half.frames(waveform, 16000)[0]
    torch.testing.assert_close(ours, pooled.amax(dim=1) + pooled.mean(dim=1))
    # As a file it takes half the space, and loads as float32 with the rounded weights.
    small = path.with_name("small.safetensors")
    half.save(small)
    assert small.stat().st_size < 0.55 * path.stat().st_size
    again = byola_rq.load(small)
    assert next(again.encoder.parameters()).dtype == torch.float32
    assert byola_rq.load(small, dtype=dtype).weights_sha256 == half.weights_sha256
    torch.testing.assert_close(again(waveform, 16000), ours, atol=0.02, rtol=0.02)


def test_half_leaves_the_frontend_as_it_is(embedder: Embedder, path: Path) -> None:
    waveform = torch.from_numpy(sweep(1.0, 16000))
    expected = embedder.frontend(waveform)
    for model in (byola_rq.load(path).half(), byola_rq.load(path).to(torch.bfloat16)):
        assert torch.equal(model.frontend(waveform), expected)


def test_other_precisions_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="dtype .*float64"):
        byola_rq.load(path, dtype=torch.float64)


def rewrite(
    path: Path, change: Callable[[dict], object], weights: dict[str, torch.Tensor] | None = None
) -> None:
    """The file with another description, under a digest of its own."""
    description, _ = read_description(path)
    change(description)
    description = json.loads(json.dumps(description))  # what NaN becomes
    text = json.dumps(description, sort_keys=True)
    description["content_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    weights = load_file(path) if weights is None else weights
    save_file(weights, path, metadata={"byola_rq": json.dumps(description)})


def set_frontend(name: str, value: object) -> Callable[[dict], object]:
    return lambda entries: entries["frontend"].update({name: value})


@pytest.mark.parametrize(
    ("change", "code", "facts"),
    [
        (lambda e: e["encoder"].update(dim=9), "value", {"key": "fc.0.weight", "value": (8, 512)}),
        (lambda e: e["encoder"].update(dim=10**6), "value", {"key": "fc.0.weight"}),
        (lambda e: e["encoder"].update(dim=10**12), "malformed", {}),
        (lambda e: e["encoder"].update(name="vit"), "malformed", {}),
        (lambda e: e["encoder"].update(name="audio_ntt_2022", dim=3072), "unknown", {}),
        (lambda e: e["encoder"].update(dim="wide"), "malformed", {}),
        (lambda e: e.pop("statistics"), "malformed", {"key": "statistics"}),
        (
            lambda e: e["statistics"].update(mean=0.5, std=0.0),
            "value",
            {"key": "statistics", "value": Statistics(0.5, 0.0)},
        ),
        (lambda e: e["statistics"].update(mean=float("nan")), "value", {"key": "statistics"}),
        (set_frontend("n_fft", 1 << 40), "too-large", {"key": "n_fft", "value": 1 << 40}),
        (set_frontend("n_mels", 520), "too-large", {"key": "n_mels", "value": 520}),
        (set_frontend("hop_length", 10**12), "too-large", {"key": "hop_length"}),
        (set_frontend("sample_rate", 10**9), "too-large", {"key": "sample_rate"}),
        (set_frontend("n_fft", True), "malformed", {}),
        (set_frontend("hop_length", 1.5), "malformed", {}),
        (set_frontend("f_max", float("nan")), "malformed", {}),
        (set_frontend("hop", 3), "malformed", {}),
        (lambda e: e.update(format_version=2), "newer", {"key": "format version", "value": 2}),
        (lambda e: e.pop("format_version"), "newer", {"key": "format version", "value": None}),
        (lambda e: e.update(weights_sha256="0"), "damaged", {"key": "weights"}),
        (lambda e: e.update(training=[1]), "value", {}),
        (lambda e: e.update(license={}), "value", {}),
    ],
)
def test_a_file_that_does_not_fit_together(
    path: Path, change: Callable[[dict], object], code: Code, facts: dict[str, object]
) -> None:
    rewrite(path, change)
    with refused(CheckpointError, code, path, **facts):
        byola_rq.load(path)


def test_weights_of_another_width_or_name(embedder: Embedder, path: Path) -> None:
    wide = Embedder.untrained(dim=16).encoder.state_dict()
    rewrite(path, lambda entries: None, wide)
    with refused(CheckpointError, "value", path, key="fc.0.weight", value=(16, 512)):
        byola_rq.load(path)
    few = {name: each for name, each in embedder.encoder.state_dict().items() if "fc" not in name}
    rewrite(path, lambda entries: None, few)
    with refused(CheckpointError, "missing", path, key="fc.0.bias"):
        byola_rq.load(path)


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 3000, -1])
def test_a_cut_file(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with refused(CheckpointError, "cut" if kept in {3000, -1} else "damaged", path):
        byola_rq.load(path)


def test_every_damaged_byte_of_the_description_is_found(embedder: Embedder, path: Path) -> None:
    whole = path.read_bytes()
    start, stop = whole.index(b'\\"encoder'), whole.index(b'\\"}"},"features')
    for place in range(start, stop, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError) as raised:
            byola_rq.load(path)
        assert raised.value.path == path
    path.write_bytes(whole.replace(b"CC-BY-4.0", b"CC0-1.0  "))
    with refused(CheckpointError, "damaged", path, key="description"):
        byola_rq.load(path)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "damaged"),
        ((2).to_bytes(8, "little") + b"[]", "malformed"),
        ((4).to_bytes(8, "little") + b"\xff{}\xff", "malformed"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "malformed"),
        ((9).to_bytes(8, "little") + b'{"a": 1} ', "malformed"),
        ((27).to_bytes(8, "little") + b'{"a":{"data_offsets":[0]} }', "malformed"),
    ],
)
def test_a_foreign_file(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with refused(CheckpointError, code, path):
        byola_rq.load(path)


@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_pickle_by_another_name(embedder: Embedder, tmp_path: Path, is_zipped: bool) -> None:
    path = tmp_path / "model.safetensors"
    weights = embedder.encoder.state_dict()
    torch.save(weights, path, _use_new_zipfile_serialization=is_zipped)
    with refused(CheckpointError, "unsupported", path) as caught:
        byola_rq.load(path)
    assert "import-weights" in str(caught.value)


def test_a_folder_is_no_model_file(tmp_path: Path) -> None:
    with refused(CheckpointError, "foreign", tmp_path):
        byola_rq.load(tmp_path)


@pytest.mark.slow
def test_200_mb_of_metadata_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    metadata = {"byola_rq": "{" + " " * 200_000_000 + "}"}
    with path.open("wb") as file:
        header = json.dumps({"__metadata__": metadata}).encode()
        header_bytes = len(header)
        file.write(header_bytes.to_bytes(8, "little") + header)
    del header, metadata
    code = (
        "import resource, sys, byola_rq\n"
        "from byola_rq.embed.embedder import load\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    load(sys.argv[1])\n"
        "except byola_rq.CheckpointError as error:\n    print(error.code, error.value)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout
    refusal, kilobytes = output.splitlines()
    assert refusal == f"too-large {header_bytes}"
    assert int(kilobytes) < 20_000


def test_a_missing_name_that_is_no_hub_id_opens_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_download = pytest.importorskip("byola_rq.model.hub_download")

    def refuse(repo_id: str, **_: object) -> None:
        raise ConnectionError(repo_id)

    monkeypatch.setattr(hub_download, "download_model_file", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("encoder", "runs/encoder", "no/encoder.safetensors", "a/b/c", "../a/b", "/no/b"):
        with refused(CheckpointError, "missing", Path(name)):
            load(name)
    with pytest.raises(ConnectionError, match="owner/name"):
        load("owner/name")
    with refused(CheckpointError, "missing", Path("owner/name")):
        load(Path("owner/name"))


def test_a_license_is_stated_at_export(trained_config: Config, tmp_path: Path) -> None:
    path = tmp_path / "exported.safetensors"
    arguments = ["export", str(trained_config.run.dir), str(path)]
    for license in (None, "CC-BY-4.0"):
        with pytest.raises(SystemExit) as left:
            main([*arguments, *(["--license", license] if license else [])])
        assert not left.value.code
        assert load(path).license == license
        assert load(path).summary["steps"] == 4


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_weights(embedder: Embedder, path: Path, dtype: torch.dtype) -> None:
    weights = embedder.encoder.state_dict()
    name = next(iter(weights))
    changed = {**weights, name: weights[name].to(dtype)}
    write_model_file(path, embedder.description, changed)
    with refused(CheckpointError, "value", path, key=name, value=dtype):
        byola_rq.load(path)
