"""`byola-rq embed --frames`, and long clips in it."""

import csv
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import Embedder
from byola_rq.audio.io import read_audio
from byola_rq.cli.app import main
from byola_rq.embed import clip_encoder
from byola_rq.embed.embedder import load
from byola_rq.embed.job import embed_clips
from byola_rq.errors import CorpusError
from tests.conftest import ROOT
from tests.embed.test_padding import TOLERANCE, build
from tests.refusal import refused
from tests.torchrun import Torchrun


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    build("audio_ntt_2020").save(path)
    return path


@pytest.fixture(scope="module")
def embedder(model: Path) -> Embedder:
    return load(model)


@pytest.fixture(scope="module")
def clips(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of several lengths, some of one, and one that ends before its header says."""
    folder = tmp_path_factory.mktemp("clips")
    for number, path in enumerate(sorted(sounds.glob("*.wav"))[:12]):
        waveform = read_audio(path, 16000).numpy()
        soundfile.write(folder / f"{number:02}.wav", waveform[: 8000 + 900 * (number % 5)], 16000)
    path = folder / "short.mp3"
    soundfile.write(path, np.tile(waveform, 2)[:20000], 16000)
    encoded = bytearray(path.read_bytes())
    place = max(encoded.find(b"Xing"), encoded.find(b"Info")) + 8
    (frames,) = struct.unpack_from(">I", encoded, place)
    struct.pack_into(">I", encoded, place, frames + 2)  # of 36 ms: within the tolerance
    path.write_bytes(encoded)
    return folder


def index_of(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_frames(embedder: Embedder, out: Path) -> None:
    frames = np.load(out / "frames.npy", mmap_mode="r", allow_pickle=False)
    meta = json.loads((out / "meta.json").read_text())
    times = meta["frames"]
    end = 0
    for row in index_of(out):
        first, count = int(row["first_frame"]), int(row["num_frames"])
        expected, seconds = embedder.frames(read_audio(Path(row["path"]), 16000), 16000)
        assert count == expected.shape[1]
        difference = np.abs(frames[first : first + count] - expected[0].numpy()).max()
        assert difference <= TOLERANCE * expected.abs().max()
        ours = times["first_seconds"] + times["seconds_apart"] * np.arange(count)
        np.testing.assert_allclose(ours, seconds, atol=1e-5)
        assert first >= end
        assert np.isnan(frames[end:first]).all()
        end = first + count
    assert np.isnan(frames[end:]).all()
    assert meta["rows"] == len(frames)


def test_frames_of_a_folder(
    model: Path, embedder: Embedder, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main_ends_well(["embed", str(clips), "--model", str(model), "-o", str(out), "--frames"])
    assert capsys.readouterr().out == f"{out / 'frames.npy'}\n"
    assert sorted(each.name for each in out.iterdir()) == ["frames.npy", "index.csv", "meta.json"]
    check_frames(embedder, out)
    short = next(row for row in index_of(out) if row["path"].endswith("short.mp3"))
    assert int(short["num_frames"]) < embedder.clips.count_frames(20000 + 2 * 576)


def test_the_documented_way_to_read_frames(
    model: Path, embedder: Embedder, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "embedding.md"
    (snippet,) = re.findall(r"```py\n(.*?)```", page.read_text(), flags=re.DOTALL)
    embed_clips(embedder, [clips], tmp_path / "frames", num_workers=1, frames=True)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(compile(snippet, "docs/embedding.md", "exec"), space)
    first = Path(index_of(tmp_path / "frames")[0]["path"])
    expected, seconds = embedder.frames(read_audio(first, 16000), 16000)
    np.testing.assert_allclose(space["own"], expected[0], atol=1e-4)
    np.testing.assert_allclose(space["seconds"], seconds, atol=1e-5)


def main_ends_well(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--device", "cpu"])
    assert not left.value.code


def test_frames_go_on_where_they_were_stopped(
    embedder: Embedder, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embed_clips(embedder, [clips], tmp_path / "whole", num_workers=1, frames=True)
    out = tmp_path / "out"
    calls = 0
    frames_of = Embedder.frames

    def stop_at_the_fourth(self: Embedder, *arguments: object) -> tuple:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return frames_of(self, *arguments)

    monkeypatch.setattr(Embedder, "frames", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        embed_clips(embedder, [clips], out, num_workers=1, frames=True)
    assert not (out / "frames.npy").exists()
    total = calls
    embed_clips(embedder, [clips], out, num_workers=1, frames=True)
    for name in ("frames.npy", "index.csv", "meta.json"):
        assert (out / name).read_bytes() == (expected.parent / name).read_bytes()
    before = calls - total
    calls = 10
    embed_clips(embedder, [clips], tmp_path / "again", num_workers=1, frames=True)
    assert before == calls - 10 - 3, "what was done is not done again"


def test_frames_and_embeddings_are_two_jobs(
    embedder: Embedder, clips: Path, tmp_path: Path
) -> None:
    embed_clips(embedder, [clips], tmp_path, num_workers=1)
    with refused(CorpusError, "exists", tmp_path / "embeddings.npy"):
        embed_clips(embedder, [clips], tmp_path, num_workers=1, frames=True)
    assert len(np.load(tmp_path / "embeddings.npy", allow_pickle=False)) == 13
    embed_clips(embedder, [clips], tmp_path, num_workers=1, frames=True, overwrite=True)
    assert not (tmp_path / "embeddings.npy").exists()
    check_frames(embedder, tmp_path)


@pytest.mark.parametrize("frames", [False, True])
def test_long_clips_are_embedded_in_windows(
    embedder: Embedder,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frames: bool,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    waveform = np.concatenate([read_audio(path, 16000) for path in sorted(clips.glob("*.wav"))])
    soundfile.write(source / "long.flac", waveform, 22050)
    soundfile.write(source / "a.wav", waveform[:20000], 16000)
    whole = embed_clips(embedder, [source], tmp_path / "whole", num_workers=1, frames=frames)
    monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 2.0)
    monkeypatch.setattr("byola_rq.corpus.decoded_clips.read_audio", read_no_long_audio)
    cut = embed_clips(embedder, [source], tmp_path / "cut", num_workers=1, frames=frames)
    ours, expected = (np.load(path, allow_pickle=False) for path in (cut, whole))
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()
    for name in ("index.csv", "meta.json"):
        assert (cut.parent / name).read_bytes() == (whole.parent / name).read_bytes()


def read_no_long_audio(source: Path, *arguments: int) -> torch.Tensor:
    assert Path(source).stem != "long"
    return read_audio(source, *arguments)


def test_many_processes_write_the_frames_of_one(model: Path, clips: Path, tmp_path: Path) -> None:
    expected = embed_clips(load(model), [clips], tmp_path / "one", num_workers=1, frames=True)
    out = tmp_path / "many"
    arguments = [
        "-m",
        "byola_rq",
        "embed",
        clips,
        "--model",
        model,
        "-o",
        out,
        "--device",
        "cpu",
        "--frames",
    ]
    with Torchrun(arguments, 2, tmp_path / "output") as job:
        status, _, stderr = job.end()
    assert status == 0, stderr
    for path in expected.parent.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
