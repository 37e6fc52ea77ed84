"""Embedding files: by length, decoded ahead, in the order they were named."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError, Embedder
from byola_rq.audio.io import read_audio
from byola_rq.embed import clip_encoder
from tests.embed.test_padding import TOLERANCE, build
from tests.refusal import refused


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return build("audio_ntt_2020")


@pytest.fixture(scope="module")
def files(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Clips of many lengths, rates, formats and numbers of channels, longest first."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for number, path in enumerate(sorted(sounds.glob("*.wav"))[:14]):
        waveform = read_audio(path, 16000).numpy()[: 24000 - 1500 * number]
        rate = (16000, 22050, 48000, 8000)[number % 4]
        stereo = np.stack([waveform, 0.5 * waveform], 1) if number % 3 else waveform
        paths.append(folder / f"{number}.{('wav', 'flac', 'ogg')[number % 3]}")
        soundfile.write(paths[-1], stereo, rate)
    return paths


def test_every_file_has_the_embedding_it_has_alone(embedder: Embedder, files: list[Path]) -> None:
    expected = torch.cat([embedder(read_audio(path, 16000), 16000) for path in files])
    for num_workers in (1, 3):
        ours = embedder.embed_files(files, num_workers=num_workers)
        assert ours.shape == (len(files), 64)
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert embedder.embed_files(str(files[3])).shape == (1, 64)
    again = embedder.embed_files([files[2], files[2], files[0]])
    assert (again - expected[[2, 2, 0]]).abs().max() <= TOLERANCE * expected.abs().max()


def test_long_files_are_never_in_memory_whole(
    embedder: Embedder, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = np.concatenate([read_audio(path, 16000).numpy() for path in files])
    soundfile.write(tmp_path / "long.flac", np.stack([waveform, waveform], 1), 44100)
    paths = [files[5], tmp_path / "long.flac", files[6]]
    expected = torch.cat([embedder(read_audio(path, 16000), 16000) for path in paths])
    monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 2.0)
    read: list[Path] = []
    monkeypatch.setattr(
        "byola_rq.embed.audio_files.read_audio",
        lambda path, rate: (read.append(path), whole(path))[1],
    )

    def whole(path: Path) -> torch.Tensor:
        return read_audio(path, 16000)

    ours = embedder.embed_files(paths)
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert sorted(read) == sorted([files[5], files[6]])


def test_progress_is_shown_where_it_is_wanted(
    embedder: Embedder, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    embedder.embed_files(files[:3])
    assert capsys.readouterr().err == ""
    embedder.embed_files(files[:3], progress=True)
    assert "embedding: 3/3" in capsys.readouterr().err


def test_files_that_cannot_be_embedded_are_named(
    embedder: Embedder, files: list[Path], tmp_path: Path
) -> None:
    with refused(AudioError, "empty", key="paths"):
        embedder.embed_files([])
    with refused(AudioError, "missing", tmp_path / "no.wav"):
        embedder.embed_files([files[0], tmp_path / "no.wav"])
    soundfile.write(tmp_path / "short.wav", np.zeros(160), 16000)
    with refused(AudioError, "too-short", tmp_path / "short.wav", value=0.01):
        embedder.embed_files([files[0], tmp_path / "short.wav"])
    bad = np.zeros(16000, np.float32)
    bad[900] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    with refused(AudioError, "not-finite", tmp_path / "nan.wav", key="sample 900"):
        embedder.embed_files([tmp_path / "nan.wav", files[0]])
