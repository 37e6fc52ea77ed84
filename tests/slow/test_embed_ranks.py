"""Embedding with several processes: the bytes of one, whatever befalls them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import nn

from byola_rq import Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.audio.io import read_audio
from byola_rq.embed.embedder import load
from byola_rq.embed.folder import EmbeddingFolder
from byola_rq.embed.job import embed_clips
from tests.embed.test_rows import punch_hole
from tests.torchrun import Torchrun


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    Embedder.untrained("audio_ntt_2020", dim=2048, seed=3).with_statistics(
        Statistics(mean=-7.5, std=4.5)
    ).save(path)
    return path


@pytest.fixture(scope="module")
def clips(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 clips: some of one length, most not, and one that has less than its header says."""
    folder = tmp_path_factory.mktemp("clips")
    for number, path in enumerate(sorted(sounds.glob("*.wav"))):
        waveform = read_audio(path, 16000).numpy()
        for part in range(8):
            length = 8000 + 320 * ((5 * number + part) % 90)
            soundfile.write(folder / f"{number}_{part}.wav", waveform[:length], 16000)
        if number < 8:
            whole = folder / f"{number}.mp3"
            soundfile.write(whole, np.tile(waveform, 2)[:20000], 16000)
    punch_hole(whole)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embed `clips` by one process."""
    return embed_by_one(model, clips, tmp_path_factory.mktemp("expected"))


def embed_by_one(model: Path, source: Path, out: Path) -> Path:
    embed_clips(load(model), [source], out, num_workers=1)
    return out


def embed_by_many(
    model: Path,
    source: Path,
    out: Path,
    num_processes: int,
    max_restarts: int = 0,
    options: Sequence[str] = (),
) -> Torchrun:
    arguments = ["-m", "byola_rq", "embed", source, "--model", model, "-o", out, "--device", "cpu"]
    return Torchrun([*arguments, *options], num_processes, out.parent / "output", max_restarts)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_half_done(out: Path) -> Callable[[], bool]:
    return lambda: (out / ".partial.key").exists() and bool(marks(out).sum() > 20)


def marks(out: Path) -> np.ndarray:
    return np.load(out / ".partial.done.npy", allow_pickle=False)


def count_embedded(embedder: Embedder) -> list[int]:
    """Filled with how many clips are embedded together."""
    embedded: list[int] = []

    def count(module: nn.Module, inputs: tuple, output: object) -> None:
        embedded.append(len(inputs[0]))

    embedder.encoder.register_forward_hook(count)
    return embedded


def errors_in(stderr: str) -> list[str]:
    """Our lines; processes that share a stream may write two of them as one."""
    assert "/byola_rq/" not in stderr, stderr  # a line of a traceback
    return stderr.split("error: ")[1:]


@pytest.mark.parametrize("num_processes", [2, 3])
def test_many_make_the_bytes_of_one(
    model: Path, clips: Path, expected: Path, tmp_path: Path, num_processes: int
) -> None:
    out = tmp_path / "out"
    with embed_by_many(model, clips, out, num_processes) as job:
        status, stdout, stderr = job.end()
    assert status == 0, stderr
    assert content(out) == content(expected)
    assert stdout == f"{out / 'embeddings.npy'}\n"
    assert stderr.count("embedding: 200/200") == 1


def test_recordings_and_more_ranks_than_batches(
    model: Path, recordings: Path, tmp_path: Path
) -> None:
    files = sorted((recordings / "spcv2_dev").rglob("*.flac"))[:20]
    source = tmp_path / "clips.csv"
    source.write_text("path\n" + "".join(f"{path}\n" for path in files))
    expected = embed_by_one(model, source, tmp_path / "expected")
    out = tmp_path / "out"
    with embed_by_many(model, source, out, 3) as job:
        status, _, stderr = job.end()
    assert status == 0, stderr
    assert content(out) == content(expected)


def test_one_process_goes_on_where_a_killed_rank_ended_all(
    model: Path, clips: Path, expected: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with embed_by_many(model, clips, out, 2) as job:
        job.wait_for(is_half_done(out))
        job.send(signal.SIGKILL, rank=1)
        status, stdout, stderr = job.end()
    assert status != 0
    assert stdout == ""
    # The other one says so, unless torchrun's SIGTERM meets it before; torchrun says it always.
    assert len(errors_in(stderr)) <= 1, stderr
    assert "SIGKILL" in stderr
    num_done = marks(out).sum()
    assert 20 < num_done < 200
    embedder = load(model)
    embedded = count_embedded(embedder)
    embed_clips(embedder, [clips], out, num_workers=1)
    assert sum(embedded) == 200 - num_done
    assert content(out) == content(expected)


def test_what_is_missing_does_not_decide_what_is_embedded_together(
    model: Path, clips: Path, expected: Path, tmp_path: Path
) -> None:
    rows = np.load(expected / "embeddings.npy", allow_pickle=False)
    index = (expected / "index.csv").read_text().splitlines()[1:]
    missing = next(row for row, line in enumerate(index) if line.split(",")[1].endswith("5.mp3"))
    folder = EmbeddingFolder(
        tmp_path, json.loads((expected / "meta.json").read_text())["content_key"]
    )
    folder.open(*rows.shape)
    others = np.delete(np.arange(len(rows)), missing)
    folder.add(others, rows[others])
    folder.flush()
    embedder = load(model)
    embedded = count_embedded(embedder)
    embed_clips(embedder, [clips], tmp_path, num_workers=1)
    # Eight files of the same header, one of which holds less than that says.
    assert sorted(embedded) == [1, 7]
    assert content(tmp_path) == content(expected)


def test_a_restart_goes_on(model: Path, clips: Path, expected: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with embed_by_many(model, clips, out, 2, max_restarts=1) as job:
        job.wait_for(is_half_done(out))
        before = job.pids()
        job.send(signal.SIGKILL, rank=0)
        job.wait_for(lambda: len(job.pids()) == 2 and job.pids() != before)
        assert 20 < marks(out).sum() < 200
        status, stdout, stderr = job.end()
    assert status == 0, stderr
    assert content(out) == content(expected)
    assert stdout == f"{out / 'embeddings.npy'}\n"


def break_second(sounds: Path, source: Path, part: str) -> None:
    """Two clips, of which the second by name and by length is broken in this part."""
    source.mkdir()
    waveform = read_audio(sorted(sounds.glob("*.wav"))[2], 16000).numpy()
    soundfile.write(source / "a.flac", waveform[:8000], 16000)
    soundfile.write(source / "b.flac", waveform, 16000)
    encoded = (source / "b.flac").read_bytes()
    kept = 20 if part == "header" else len(encoded) // 2
    (source / "b.flac").write_bytes(encoded[:kept])


@pytest.mark.parametrize("part", ["header", "sound"])
def test_a_clip_that_one_rank_cannot_read_is_left_out(
    model: Path, sounds: Path, tmp_path: Path, part: str
) -> None:
    source, out = tmp_path / "clips", tmp_path / "out"
    break_second(sounds, source, part)
    outcome = embed_clips(load(model), [source], tmp_path / "one", num_workers=1)
    assert (outcome.num_clips, outcome.num_rejected) == (1, 1)
    with embed_by_many(model, source, out, 2) as job:
        status, stdout, stderr = job.end()
    assert status == 1
    assert stdout == f"{out / 'embeddings.npy'}\n"
    (line,) = errors_in(stderr)
    assert line.startswith(f"{out}: 1 "), stderr
    assert content(out) == content(tmp_path / "one")


@pytest.mark.parametrize("part", ["header", "sound"])
def test_with_strict_a_clip_that_one_rank_cannot_read_ends_all(
    model: Path, sounds: Path, tmp_path: Path, part: str
) -> None:
    source, out = tmp_path / "clips", tmp_path / "out"
    break_second(sounds, source, part)
    with embed_by_many(model, source, out, 2, options=["--strict"]) as job:
        status, stdout, stderr = job.end()
    assert status != 0
    assert stdout == ""
    (line,) = errors_in(stderr)
    assert line.startswith(f"rank 1 of 2: {source / 'b.flac'}: "), stderr
    assert not (out / "embeddings.npy").exists()


def test_sigterm_is_one_line_and_its_status(model: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            sys.executable,
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
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        is_due = is_half_done(out)
        while not is_due():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    (line,) = errors_in(stderr)
    assert line.startswith(f"{out}: ")
    assert "SIGTERM" in line
    assert line.count("\n") == 1
