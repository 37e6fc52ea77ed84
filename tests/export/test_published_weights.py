"""Weights in the published naming: state dicts built here with those names and shapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import byola_rq
from byola_rq import AudioError, CheckpointError, ConfigError, Embedder
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.audio.io import read_audio
from byola_rq.cli.app import main
from byola_rq.corpus.statistics import measure_sources
from byola_rq.errors import Code, CorpusError
from byola_rq.export.published_weights import import_weights
from byola_rq.synthesis.generate import write_corpus
from tests.refusal import refused

STATISTICS = Statistics(-5.5, 5.0)


def published_2020(dim: int) -> dict[str, Tensor]:
    """AudioNTT2020's names and shapes, written out."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place, channels in ((0, 1), (4, 64), (8, 64)):
        shapes[f"features.{place}.weight"] = (64, channels, 3, 3)
        shapes[f"features.{place}.bias"] = (64,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{place + 1}.{name}"] = (64,)
    shapes |= {
        "fc.0.weight": (dim, 512),
        "fc.0.bias": (dim,),
        "fc.3.weight": (dim, dim),
        "fc.3.bias": (dim,),
    }
    return draw(shapes)


def published_2022() -> dict[str, Tensor]:
    """The encoder of BYOL-A v2, 3072 numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for place, channels in ((0, 1), (4, 64)):
        shapes[f"features.{place}.weight"] = (64, channels, 3, 3)
        shapes[f"features.{place}.bias"] = (64,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{place + 1}.{name}"] = (64,)
    shapes |= {
        "fc.0.weight": (2048, 1024),
        "fc.0.bias": (2048,),
        "fc.3.weight": (2048, 2048),
        "fc.3.bias": (2048,),
    }
    return draw(shapes)


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def load_512(path: Path) -> Embedder:
    return import_weights(path, encoder_name="audio_ntt_2020", dim=512, statistics=STATISTICS)


@pytest.mark.parametrize("encoder", ["audio_ntt_2020", "audio_ntt_2022"])
def test_published_names_become_a_model_file(encoder: str, tmp_path: Path) -> None:
    dim = 512 if encoder == "audio_ntt_2020" else 3072
    weights = published_2020(512) if encoder == "audio_ntt_2020" else published_2022()
    torch.save(weights, tmp_path / "published.pth")
    embedder = import_weights(
        tmp_path / "published.pth", encoder_name=encoder, dim=dim, statistics=STATISTICS
    )
    embedder.save(tmp_path / "encoder.safetensors")
    loaded = byola_rq.load(tmp_path / "encoder.safetensors")
    state = loaded.encoder.state_dict()
    for name, value in weights.items():
        assert torch.equal(state[name], value), name
    assert loaded.statistics == STATISTICS
    assert loaded.summary["imported_from"] == "published.pth"
    assert len(loaded.summary["imported_sha256"]) == 64
    assert loaded(torch.rand(16000), 16000).shape == (1, dim)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 100, "loss": 0.3},
    "model": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    "module.": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "model.": lambda weights: {f"model.{name}": value for name, value in weights.items()},
    "one in the other": lambda weights: {"model": {"state_dict": weights}},
    "all of it": lambda weights: {
        "state_dict": {f"module.model.{name}": value for name, value in weights.items()}
    },
    "with counters": lambda weights: (
        weights | {f"features.{place}.num_batches_tracked": torch.tensor(7) for place in (1, 5, 9)}
    ),
    "in double precision": lambda weights: {k: v.double() for k, v in weights.items()},
}


@pytest.mark.parametrize("form", list(WRAPPED))
def test_wrapped_and_prefixed_state_dicts_are_the_same(form: str, tmp_path: Path) -> None:
    weights = published_2020(512)
    torch.save(weights, tmp_path / "plain.pth")
    torch.save(WRAPPED[form](weights), tmp_path / "wrapped.pth")
    waveform = torch.rand(12000, generator=torch.Generator().manual_seed(1)) - 0.5
    expected = load_512(tmp_path / "plain.pth")(waveform, 16000)
    assert expected.std() > 0
    assert torch.equal(load_512(tmp_path / "wrapped.pth")(waveform, 16000), expected)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    weights = published_2020(512)

    def check(content: Any, code: Code, *told: str, **facts: Any) -> None:
        torch.save(content, path)
        with refused(CheckpointError, code, path, **facts) as caught:
            load_512(path)
        assert all(each in str(caught.value) for each in told), caught.value

    without = {name: value for name, value in weights.items() if name != "fc.3.bias"}
    check(without, "different", "512", value={"missing": ["fc.3.bias"]})
    with_head = weights | {"head.weight": torch.zeros(1)}
    check(with_head, "different", value={"unexpected": ["head.weight"]})
    check(published_2020(1024), "different", "fc.0.weight", "(1024, 512)", "(512, 512)", "--dim")
    check(published_2022(), "different", "missing features.8.weight", "shape: ")
    bias = "fc.0.bias"
    not_finite = torch.full((512,), torch.nan)
    check(weights | {bias: not_finite}, "not-finite", key=bias)
    whole = torch.zeros(512, dtype=torch.int64)
    check(weights | {bias: whole}, "value", key=bias, value=torch.int64)
    check(weights | {f"module.{bias}": weights[bias]}, "twice", key=bias)
    check({"epoch": 3}, "value", key="epoch", value=3)
    check([torch.zeros(1)], "foreign", value="list")
    check({}, "foreign", "empty")


class Bomb:
    """Unpickled by a reader that runs code, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_code_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "bomb.pth", tmp_path / "exploded"
    torch.save({"state_dict": Bomb(trace)}, path)
    with refused(CheckpointError, "damaged", path):
        load_512(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert trace.exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    with refused(CheckpointError, "missing", path):
        load_512(path)
    torch.save(published_2020(512), path)
    whole = path.read_bytes()
    for content in (b"", b"RIFF....WAVE", whole[: len(whole) // 2], whole[100:]):
        path.write_bytes(content)
        with refused(CheckpointError, "damaged", path):
            load_512(path)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    torch.save(published_2020(512), path)
    for mean, std in ((0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        statistics = Statistics(mean, std)
        with refused(ConfigError, "value", value=statistics):
            import_weights(path, encoder_name="audio_ntt_2020", dim=512, statistics=statistics)
    with refused(ConfigError, "unknown", key="encoder", value="resnet"):
        import_weights(path, encoder_name="resnet", dim=512, statistics=STATISTICS)
    with refused(ConfigError, "value", key="encoder.dim", value=512):
        import_weights(path, encoder_name="audio_ntt_2022", dim=512, statistics=STATISTICS)


def test_statistics_are_those_of_the_sound(tmp_path: Path) -> None:
    # Clips of exactly one segment: then random segments are the clips.
    write_corpus(tmp_path / "clips", num_clips=9, seed=1, seconds=(0.95, 0.95))
    frontend = LogMelSpectrogram()
    clips = sorted((tmp_path / "clips").rglob("*.wav"))
    expected = measure_statistics(frontend(read_audio(clip, 16000)) for clip in clips)
    found = measure_sources([tmp_path / "clips"])
    assert found.mean == pytest.approx(expected.mean, rel=1e-6)
    assert found.std == pytest.approx(expected.std, rel=1e-6)


def test_statistics_of_silence_or_nothing_are_refused(tmp_path: Path) -> None:
    import soundfile

    with pytest.raises(CorpusError):
        measure_sources([tmp_path])
    soundfile.write(tmp_path / "silence.wav", torch.zeros(16000).numpy(), 16000)
    with refused(CorpusError, "empty", tmp_path):
        measure_sources([tmp_path])
    (tmp_path / "silence.wav").write_bytes(b"no sound")
    with pytest.raises((CorpusError, AudioError)):
        measure_sources([tmp_path])


def test_the_command(tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["import-weights", str(weights), str(model), *map(str, arguments)])
        return (int(left.value.code or 0), *capsys.readouterr())

    weights, model = tmp_path / "published.pth", tmp_path / "encoder.safetensors"
    torch.save({"model": published_2020(512)}, weights)
    given = run("--dim", 512, "--mean", -5.5, "--std", 5)
    assert given == (0, f"{model}: mean -5.5000, std 5.0000\n", "")
    assert byola_rq.load(model).statistics == STATISTICS
    model.unlink()
    status, _, _ = run("--dim", 512, "--corpus", sounds)
    assert status == 0
    assert byola_rq.load(model).statistics == measure_sources([sounds])
    capsys.readouterr()
    model.unlink()
    for options, told in (
        ((), "--corpus"),
        (("--mean", 1), "--std"),
        (("--mean", 1, "--std", 1, "--corpus", sounds), "--corpus"),
        (("--mean", 1, "--std", 0), "0.0"),
        (("--mean", 1, "--std", 1), "2048"),
    ):
        status, out, error = run(*options)
        assert (status, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert told in error
        assert not model.exists()
