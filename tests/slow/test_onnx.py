"""The exported graphs against the model that they were made from, on real sound."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import byola_rq
from byola_rq.audio.frontend import LogMelSpectrogram, measure_statistics
from byola_rq.audio.io import read_audio
from byola_rq.cli.app import main
from byola_rq.errors import CheckpointError, MissingPackageError
from byola_rq.export.onnx import WaveformEncoder, export_onnx, export_program
from byola_rq.model.builtin import IDENTITY
from byola_rq.model.encoder import build_encoder
from tests.refusal import refused

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TOLERANCE = 1e-4  # of an embedding


def settled(name: str, dim: int, sounds: Path, **frontend: Any) -> byola_rq.Embedder:
    """A model whose batch norms and statistics know the sounds, as after training."""
    log_mel = LogMelSpectrogram(**frontend)
    torch.manual_seed(3)
    encoder = build_encoder(name, dim=dim, n_mels=log_mel.n_mels)
    clips = [read_audio(path, log_mel.sample_rate) for path in sorted(sounds.glob("*.wav"))[:8]]
    batch = torch.stack([clip[: log_mel.sample_rate] for clip in clips])
    statistics = measure_statistics([log_mel(batch)])
    with torch.no_grad():
        for _ in range(20):
            encoder(statistics.standardize(log_mel(batch))[:, None])
    return byola_rq.Embedder(encoder, log_mel, statistics, {"steps": 20})


@pytest.fixture(scope="module")
def model(sounds: Path) -> byola_rq.Embedder:
    return settled("audio_ntt_2020", 64, sounds)


@pytest.fixture(scope="module")
def file(model: byola_rq.Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "deep" / "model.onnx"
    export_onnx(model, path)
    return path


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(running: Any, waveform: Tensor) -> Tensor:
    return torch.from_numpy(running.run(None, {"waveform": waveform.numpy()})[0])


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


# From the shortest that a model takes (one frame embedding) to many; no multiple of the hop.
LENGTHS = [1600, 1601, 2399, 2400, 15200, 16000, 40001, 100_003]


@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_and_batch(model: byola_rq.Embedder, file: Path, length: int) -> None:
    noise = torch.randn(3, length, generator=torch.Generator().manual_seed(length))
    waveform = noise * torch.tensor([[1e-3], [0.1], [0.3]])
    running = session(file)
    for batch in (waveform, waveform[:1]):
        assert_same(run(running, batch), model(batch, 16000))


def test_synthesized_sounds(model: byola_rq.Embedder, file: Path, sounds: Path) -> None:
    running = session(file)
    clips = [read_audio(path, 16000)[None] for path in sorted(sounds.glob("*.wav"))]
    assert len({clip.shape[1] for clip in clips}) > 5
    for clip in clips:
        assert_same(run(running, clip), model(clip, 16000))


def test_real_recordings_of_several_lengths(recordings: Path, sounds: Path, tmp_path: Path) -> None:
    paths = [
        path
        for folder in ("esc10", "fsdd", "spcv2_dev", "pool")
        for path in sorted((recordings / folder / "audio").rglob("*.*"))[::120][:4]
    ]
    clips = [read_audio(path, 16000)[None] for path in paths]
    clips = [clip for clip in clips if clip.shape[1] >= 1600]
    assert len(clips) >= 12
    assert len({clip.shape[1] for clip in clips}) >= 6
    for name, dim in (("audio_ntt_2020", 512), ("audio_ntt_2022", 1536)):
        model = settled(name, dim, sounds)
        export_onnx(model, tmp_path / f"{name}.onnx")
        running = session(tmp_path / f"{name}.onnx")
        for clip in clips:
            expected = model(clip, 16000)
            assert expected.abs().max() > 0.1  # embeddings to be seen at this tolerance
            assert_same(run(running, clip), expected)


def test_silence_full_scale_and_clicks(model: byola_rq.Embedder, file: Path) -> None:
    running = session(file)
    time = torch.arange(16000) / 16000
    clicks = torch.zeros(16000)
    clicks[::4000] = 1.0
    batch = torch.stack((torch.zeros(16000), torch.sin(2 * torch.pi * 997 * time), clicks))
    assert_same(run(running, batch), model(batch, 16000))


def test_the_file_says_what_it_is(model: byola_rq.Embedder, file: Path) -> None:
    loaded = onnx.load(file)
    onnx.checker.check_model(loaded, full_check=True)
    assert {entry.domain for entry in loaded.opset_import} == {""}  # no operator of torch's own
    running = session(file)
    (waveform,), (embedding,) = running.get_inputs(), running.get_outputs()
    assert (waveform.name, waveform.type, waveform.shape) == (
        "waveform",
        "tensor(float)",
        ["batch", "samples"],
    )
    assert (embedding.name, embedding.shape) == ("embedding", ["batch", 64])
    description = json.loads(running.get_modelmeta().custom_metadata_map["byola_rq"])
    assert description["weights_sha256"] == model.weights_sha256
    assert description["frontend"]["sample_rate"] == 16000
    assert description["statistics"]["mean"] == model.statistics.mean
    assert description["training"] == model.summary
    assert description["license"] is None
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]  # all in one file


@pytest.mark.parametrize(
    "frontend",
    [
        {"sample_rate": 8000, "n_fft": 512, "win_length": 400, "hop_length": 80, "f_max": 3900},
        {"backend": "librosa"},
    ],
    ids=["8 kHz", "librosa"],
)
def test_other_frontends(frontend: dict[str, Any], sounds: Path, tmp_path: Path) -> None:
    if "backend" in frontend:
        pytest.importorskip(frontend["backend"])
    model = settled("audio_ntt_2020", 16, sounds, **frontend)
    export_onnx(model, tmp_path / "m.onnx")
    clip = read_audio(min(sounds.glob("*.wav")), model.sample_rate)[None]
    # Backends agree within 1e-3 of log-mel, not within this test's tolerance of embeddings.
    atol = 1e-3 if "backend" in frontend else TOLERANCE
    expected = model(clip, model.sample_rate)
    torch.testing.assert_close(run(session(tmp_path / "m.onnx"), clip), expected, atol=atol, rtol=0)


def test_a_model_of_half_precision_is_exported_whole(
    model: byola_rq.Embedder, sounds: Path, tmp_path: Path
) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    export_onnx(half, tmp_path / "m.onnx")
    assert {weight.dtype for weight in half.encoder.parameters()} == {torch.bfloat16}
    clip = read_audio(min(sounds.glob("*.wav")), 16000)[None]
    # The same rounded weights, computed with in float32.
    assert_same(run(session(tmp_path / "m.onnx"), clip), half.to(torch.float32)(clip, 16000))


def test_torch_export_is_the_same_program(
    model: byola_rq.Embedder, sounds: Path, tmp_path: Path
) -> None:
    program = export_program(model)
    torch.export.save(program, tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    for shape in ((1, 1600), (1, 16000), (4, 2400), (2, 33333)):
        waveform = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        assert_same(module(waveform), model(waveform, 16000))
    with pytest.raises((RuntimeError, AssertionError)):
        module(torch.zeros(1, 1599))


def test_the_model_is_left_as_it_was(model: byola_rq.Embedder) -> None:
    before = model.weights_sha256
    exported = WaveformEncoder(model)
    with torch.no_grad():
        for weight in exported.encoder.parameters():
            weight.zero_()
    assert model.weights_sha256 == before


def test_nothing_is_written_where_it_cannot_be(model: byola_rq.Embedder, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file, not a folder")
    with refused(CheckpointError, "unwritable", tmp_path / "occupied" / "m.onnx"):
        export_onnx(model, tmp_path / "occupied" / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with refused(CheckpointError, "unwritable", tmp_path / "folder.onnx"):
        export_onnx(model, tmp_path / "folder.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.onnx", "occupied"]


def test_a_file_that_computes_something_else_is_not_kept(
    model: byola_rq.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model of other statistics stands for an exporter that goes wrong.
    from byola_rq.audio.frontend import Statistics
    from byola_rq.export import onnx as onnx_export

    translate = onnx_export._translate
    other = model.with_statistics(Statistics(mean=0.0, std=1.0))
    monkeypatch.setattr(onnx_export, "_translate", lambda _: translate(other))
    (tmp_path / "m.onnx").write_bytes(b"the file of before")
    with refused(CheckpointError, "different", tmp_path / "m.onnx") as caught:
        export_onnx(model, tmp_path / "m.onnx")
    assert caught.value.value > 1e-4
    assert (tmp_path / "m.onnx").read_bytes() == b"the file of before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_package_is_named(model: byola_rq.Embedder, tmp_path: Path) -> None:
    script = (
        "import sys, byola_rq\nsys.modules['onnxscript'] = None\n"
        "from byola_rq.errors import MissingPackageError\n"
        "from byola_rq.export.onnx import export_onnx\n"
        "try:\n    export_onnx(byola_rq.Embedder.untrained(dim=8), sys.argv[1])\n"
        "except MissingPackageError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "onnxscript" in done.stdout
    assert ".[onnx]" in done.stdout
    assert issubclass(MissingPackageError, byola_rq.ByolaRQError)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote_and_nothing_else(
    model: byola_rq.Embedder, tmp_path: Path
) -> None:
    model.save(tmp_path / "encoder.safetensors")
    command = [
        sys.executable,
        "-m",
        "byola_rq",
        "export",
        "encoder.safetensors",
        "--onnx",
        "m.onnx",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("m.onnx\n", "")
    waveform = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    assert_same(run(session(tmp_path / "m.onnx"), waveform), model(waveform, 16000))


def test_without_a_model_the_command_exports_the_built_in_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", "--onnx", str(tmp_path / "m.onnx")])
    assert not end.value.code
    exported = session(tmp_path / "m.onnx")
    waveform = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    assert_same(run(exported, waveform), byola_rq.load()(waveform, 16000))
    about = json.loads(exported.get_modelmeta().custom_metadata_map["byola_rq"])
    assert about["training"]["release"] == IDENTITY


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--onnx"),
        (["builtin", "m.safetensors", "--onnx", "m.onnx"], "builtin: "),
        (["encoder.safetensors"], "--onnx"),
        (["encoder.safetensors", "m.safetensors", "--onnx", "m.onnx"], "--onnx"),
        (["text", "--onnx", "m.onnx"], "text: "),
        (["gone", "--onnx", "m.onnx"], "gone: "),
        (["runs", "m.safetensors", "--onnx", "m.onnx"], "runs: "),
    ],
)
def test_wrong_use_of_the_command_is_one_line(
    words: list[str],
    told: str,
    model: byola_rq.Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save("encoder.safetensors")
    Path("text").write_text("not a model file")
    Path("runs").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert not Path("m.onnx").exists()


@pytest.mark.parametrize(
    ("name", "dim", "frontend"),
    [
        ("audio_ntt_2020", 16, {"sample_rate": 8000, "f_max": 3800}),
        ("audio_ntt_2020", 16, {"hop_length": 4000}),  # no clip shorter than 1.75 s
        ("audio_ntt_2020", 16, {"sample_rate": 44100, "hop_length": 441}),
        ("audio_ntt_2020", 16, {"n_fft": 512, "win_length": 400, "hop_length": 229}),
        ("audio_ntt_2022", 1048, {"sample_rate": 2000, "f_max": 900, "hop_length": 320}),
    ],
)
def test_any_rate_and_hop(name: str, dim: int, frontend: dict[str, Any], tmp_path: Path) -> None:
    log_mel = LogMelSpectrogram(**frontend)
    model = byola_rq.Embedder.untrained(name, dim, frontend=log_mel)
    export_onnx(model, tmp_path / "m.onnx")
    running = session(tmp_path / "m.onnx")
    least = model.clips.min_samples
    generator = torch.Generator().manual_seed(1)
    for length in (least, least + 1, 3 * least + 7):
        waveform = 0.1 * torch.randn(2, length, generator=generator)
        assert_same(run(running, waveform), model(waveform, model.sample_rate))
