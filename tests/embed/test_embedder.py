"""Embedders and their model files, and embedding whole folders."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

import byola_rq
from byola_rq import AudioError, CheckpointError, Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.audio.io import read_audio
from byola_rq.embed.embedder import load
from byola_rq.embed.job import embed_clips
from byola_rq.errors import Code, CorpusError
from tests.refusal import refused


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.untrained("audio_ntt_2020", dim=24, seed=3).with_statistics(
        Statistics(mean=-7.5, std=4.5)
    )


def test_an_embedding_is_frontend_statistics_encoder(embedder: Embedder) -> None:
    waveform = torch.randn(3, 16000) * 0.1
    log_mel = (embedder.frontend(waveform) + 7.5) / 4.5
    with torch.no_grad():
        expected = embedder.encoder(log_mel[:, None])
    result = embedder(waveform, 16000)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert result.shape == (3, 24)
    torch.testing.assert_close(embedder(waveform[1], 16000), result[1:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embedder(waveform.numpy(), 16000), result, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_defaults_of_torch_change_nothing(
    embedder: Embedder, tmp_path: Path, dtype: torch.dtype
) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000).astype("f4")
    soundfile.write(tmp_path / "a.wav", noise, 16000, subtype="FLOAT")
    embedder.save(tmp_path / "m.safetensors")

    def embed_all() -> list[torch.Tensor]:
        model = load(tmp_path / "m.safetensors")
        lists = [noise, noise[:9000]]
        files = model.embed_files([tmp_path / "a.wav"])
        return [model(noise, 16000), model(lists, 16000), *model.frames(lists, 16000), files]

    expected = embed_all()
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device("meta")  # one that is not the model's
        found = embed_all()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("encoder", ["audio_ntt_2020", "audio_ntt_2022"])
def test_frames_carry_their_time(encoder: str) -> None:
    dim = 24 if encoder == "audio_ntt_2020" else 1048
    embedder = Embedder.untrained(encoder, dim=dim)
    # A click at 1 s: the frames around it change most.
    waveform = torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)) * 0.01
    clicked = waveform.clone()
    clicked[0, 16000] = 1.0
    frames, seconds = embedder.frames(waveform, 16000)
    changes = (embedder.frames(clicked, 16000)[0] - frames).norm(dim=-1)[0]
    assert frames.shape == (1, len(seconds), dim)
    step = embedder.encoder.frames_per_embedding * 0.01
    assert seconds.diff().allclose(torch.tensor(step))
    assert abs(seconds[changes.argmax()] - 1.0) <= step
    pooled = frames.amax(dim=1) + frames.mean(dim=1)
    torch.testing.assert_close(embedder(waveform, 16000), pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_float32_on_a_gpu_is_that_of_a_cpu() -> None:
    model = byola_rq.load()
    waveform = torch.randn(4, 32000, generator=torch.Generator().manual_seed(0)) * 0.1
    expected = model(waveform, 16000)
    found = model.to("cuda")(waveform, 16000).cpu()
    # TF32, with ten bits, would be a hundred times as far.
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_other_rates_are_resampled(embedder: Embedder, sounds: Path, tmp_path: Path) -> None:
    waveform = read_audio(sorted(sounds.glob("*.wav"))[3], 16000).numpy()
    import soxr

    up = soxr.resample(waveform, 16000, 48000, quality="VHQ")
    ours = embedder(up, 48000)
    cosine = torch.nn.functional.cosine_similarity(ours, embedder(waveform, 16000))
    assert cosine.item() > 0.999


def test_it_stays_frozen_and_in_eval(embedder: Embedder) -> None:
    assert not embedder.train().training
    assert not embedder.encoder.training
    assert not any(parameter.requires_grad for parameter in embedder.parameters())
    waveform = torch.randn(16000)
    assert torch.equal(embedder(waveform, 16000), embedder(waveform, 16000))


def test_a_probe_learns_from_embeddings(embedder: Embedder) -> None:
    """Tensors of inference mode could not be saved for the backward pass."""
    probe = torch.nn.Linear(24, 2)
    clips = [torch.randn(16000), torch.randn(17000)]
    for embeddings in (embedder(clips, 16000), embedder.frames(clips[0], 16000)[0]):
        probe.zero_grad()
        probe(embeddings).square().mean().backward()
        assert probe.weight.grad is not None
        assert probe.weight.grad.abs().sum() > 0
        assert not embeddings.requires_grad


def test_statistics_can_be_replaced(embedder: Embedder) -> None:
    other = embedder.with_statistics(Statistics(0.0, 1.0))
    assert embedder.statistics == Statistics(-7.5, 4.5)
    assert other.encoder is embedder.encoder
    waveform = torch.randn(16000)
    assert not torch.equal(other(waveform, 16000), embedder(waveform, 16000))
    assert other.weights_sha256 == embedder.weights_sha256


def test_a_model_file_rebuilds_its_model(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "encoder.safetensors"
    embedder.save(path)
    loaded = byola_rq.load(path)
    waveform = torch.randn(2, 12345)
    assert torch.equal(loaded(waveform, 16000), embedder(waveform, 16000))
    assert loaded.statistics == embedder.statistics
    assert loaded.weights_sha256 == embedder.weights_sha256
    assert loaded.frontend.options == embedder.frontend.options
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_untrained_is_seeded_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = Embedder.untrained(dim=16, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert first.weights_sha256 == Embedder.untrained(dim=16, seed=1).weights_sha256
    assert first.weights_sha256 != Embedder.untrained(dim=16, seed=2).weights_sha256


@pytest.mark.parametrize(
    ("waveform", "rate", "code", "value"),
    [
        (torch.zeros(1599), 16000, "too-short", 1599 / 16000),
        (torch.zeros(0), 16000, "empty", (1, 0)),
        (torch.zeros(0, 16000), 16000, "empty", (0, 16000)),
        (torch.zeros(2, 2, 16000), 16000, "value", (2, 2, 16000)),
        (torch.zeros(16000, dtype=torch.int64), 16000, "value", torch.int64),
        (torch.full((16000,), torch.nan), 16000, "not-finite", None),
        (torch.zeros(16000), 0, "value", 0),
    ],
)
def test_wrong_waveforms_are_refused(
    embedder: Embedder, waveform: torch.Tensor, rate: int, code: Code, value: object
) -> None:
    with refused(AudioError, code, key="waveform" if rate else "sample rate", value=value):
        embedder(waveform, rate)


def test_wrong_model_files_are_refused(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with refused(CheckpointError, "missing", path):
        load(path)
    path.write_bytes(b"PK\x03\x04 not a model")
    with refused(CheckpointError, "unsupported", path):
        load(path)
    save_file({"x": torch.zeros(1)}, path)
    with refused(CheckpointError, "foreign", path):
        load(path)
    embedder.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with refused(CheckpointError, "cut", path, value=len(whole) - 10):
        load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with refused(CheckpointError, "damaged", path, key="weights"):
        load(path)
    path.write_bytes(whole.replace(b'\\"format_version\\": 1', b'\\"format_version\\": 9'))
    with refused(CheckpointError, "newer", path, key="format version", value=9):
        load(path)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_an_array(embedder: Embedder, sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = embed_clips(embedder, [sounds], out, num_workers=2).path
    embeddings = np.load(path, allow_pickle=False)
    rows = rows_of(out)
    assert embeddings.shape == (24, 24)
    assert embeddings.dtype == np.float32
    for row in rows:
        expected = embedder(read_audio(Path(row["path"]), 16000), 16000).numpy()[0]
        np.testing.assert_allclose(embeddings[int(row["row"])], expected, atol=1e-4)
    meta = json.loads((out / "meta.json").read_text())
    assert meta["weights_sha256"] == embedder.weights_sha256
    assert sorted(file.name for file in out.iterdir()) == [
        "embeddings.npy",
        "index.csv",
        "meta.json",
    ]


def test_a_stopped_job_goes_on(
    embedder: Embedder, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = np.load(embed_clips(embedder, [sounds], tmp_path / "whole", num_workers=1).path)
    out = tmp_path / "out"
    calls: list[int] = []
    forward = type(embedder).forward

    def stop_after_five(self: Embedder, waveform: torch.Tensor, rate: int) -> torch.Tensor:
        calls.append(len(waveform))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(self, waveform, rate)

    monkeypatch.setattr(type(embedder), "forward", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        embed_clips(embedder, [sounds], out, num_workers=1)
    assert not (out / "embeddings.npy").exists()
    done_before = sum(calls[:5])
    calls.clear()
    calls.extend([0] * 10)
    np.testing.assert_array_equal(
        np.load(embed_clips(embedder, [sounds], out, num_workers=1).path), complete
    )
    assert sum(calls) == 24 - done_before


def test_a_finished_job_is_recognized_and_another_refused(
    embedder: Embedder, sounds: Path, tmp_path: Path
) -> None:
    path = embed_clips(embedder, [sounds], tmp_path, num_workers=1).path
    before = path.stat().st_mtime_ns
    embed_clips(embedder, [sounds], tmp_path, num_workers=1)
    assert path.stat().st_mtime_ns == before
    other = Embedder.untrained(dim=24, seed=9)
    with refused(CorpusError, "exists", path):
        embed_clips(other, [sounds], tmp_path, num_workers=1)
    assert path.stat().st_mtime_ns == before
    embed_clips(other, [sounds], tmp_path, num_workers=1, overwrite=True)
    assert json.loads((tmp_path / "meta.json").read_text())["weights_sha256"] == (
        other.weights_sha256
    )


def test_a_tar_is_embedded_like_its_files(embedder: Embedder, sounds: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in sorted(sounds.glob("*.wav")):
            tar.add(path, path.name)
    from_files = np.load(embed_clips(embedder, [sounds], tmp_path / "files", num_workers=1).path)
    source = tmp_path / "shard.tar"
    from_tar = np.load(embed_clips(embedder, [source], tmp_path / "tar", num_workers=1).path)
    np.testing.assert_array_equal(from_tar, from_files)
    assert rows_of(tmp_path / "tar")[0]["path"].startswith(f"{source}::00000_")


def test_too_short_a_clip_is_named(embedder: Embedder, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(500), 16000)
    with refused(AudioError, "too-short", tmp_path / "a.wav", value=500 / 16000):
        embed_clips(embedder, [tmp_path], tmp_path / "out", num_workers=1)
    assert not (tmp_path / "out").exists()
