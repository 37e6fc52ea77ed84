"""Long clips in windows: the embeddings of the whole, in the memory of a window."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from byola_rq import AudioError, Embedder
from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.embed import clip_encoder
from byola_rq.embed.clip_encoder import cut_windows
from tests.conftest import ROOT
from tests.embed.test_padding import TOLERANCE, build
from tests.refusal import refused

RATE = 16000


@pytest.fixture(scope="module")
def long() -> Tensor:
    """Some 20 s whose every second sounds otherwise; its end fits no window, hop or frame."""
    time = torch.arange(20 * RATE + 77) / RATE
    sound = torch.sin(2 * torch.pi * (200 + 40 * time) * time) * (0.1 + 0.3 * (time % 3))
    return sound * 0.5 + 0.05 * torch.randn(len(time), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("encoder", ["audio_ntt_2020", "audio_ntt_2022"])
@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0, 7.77])
def test_windows_give_what_the_whole_gives(
    encoder: str, seconds: float, long: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = build(encoder)
    whole, (frames, times) = embedder(long, RATE), embedder.frames(long, RATE)
    monkeypatch.setattr(clip_encoder, "MAX_SECONDS", seconds)
    lengths = heard_lengths(embedder)
    assert (embedder(long, RATE) - whole).abs().max() <= TOLERANCE * whole.abs().max()
    assert len(lengths) == pytest.approx(20 / seconds, abs=5)
    assert max(lengths) <= (seconds + 0.5) * RATE
    cut, cut_times = embedder.frames(long, RATE)
    assert cut.shape == frames.shape
    assert (cut - frames).abs().max() <= TOLERANCE * frames.abs().max()
    assert torch.equal(cut_times, times)


def heard_lengths(embedder: Embedder) -> list[int]:
    """Filled with the samples of each call of the frontend."""
    lengths: list[int] = []

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        lengths.append(inputs[0].numel())

    embedder.frontend.register_forward_hook(note)
    return lengths


@pytest.mark.parametrize("beyond", [-160, -1, 0, 1, 159, 160, 1279, 1280, 1920, 2000, 5000])
def test_wherever_a_clip_ends(long: Tensor, beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 1.04 s with 0.12 s to both sides: ends at, before and behind every cut."""
    embedder = build("audio_ntt_2020")
    monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 1.04)
    for cut in (16640, 16640 + 1920, 2 * 16640, 2 * 16640 + 1920):
        clip = long[: cut + beyond]
        monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 240.0)
        whole = embedder.frames(clip, RATE)[0]
        monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 1.04)
        cut_frames = embedder.frames(clip, RATE)[0]
        assert cut_frames.shape == whole.shape
        assert (cut_frames - whole).abs().max() <= TOLERANCE * whole.abs().max()


def test_a_stream_is_taken_as_it_comes(long: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = build("audio_ntt_2020")
    whole = embedder(long, RATE)[0]
    monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 2.0)
    taken = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal taken
        for block in long.split(1000):
            taken += len(block)
            yield block
            yield block[:0]

    given = 0
    with torch.inference_mode():
        for frames in embedder.clips.stream_frames(blocks()):
            given += len(frames) * 8 * 160
            assert taken - given <= 2.5 * RATE, "more is held than a window"
        ours = embedder.clips.embed_stream(blocks())
    assert (ours - whole).abs().max() <= TOLERANCE * whole.abs().max()
    with refused(AudioError, "too-short", Path("a.wav"), value=0):
        embedder.clips.embed_stream(iter([]), Path("a.wav"))


def test_a_large_batch_goes_in_parts(long: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = build("audio_ntt_2020")
    batch = long[: 16 * RATE].reshape(16, RATE)
    whole = embedder(batch, RATE)
    ragged = [row[: RATE - 500 * place] for place, row in enumerate(batch)]
    alone = torch.cat([embedder(row, RATE) for row in ragged])
    monkeypatch.setattr(clip_encoder, "MAX_SECONDS", 5.0)
    lengths = heard_lengths(embedder)
    for ours, expected in ((embedder(batch, RATE), whole), (embedder(ragged, RATE), alone)):
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert len(lengths) >= 7
    assert max(lengths) <= 5 * RATE + 5 * 512
    mixed = [long[: 7 * RATE], *ragged[:2]]  # one of them in windows
    expected = torch.cat([embedder(row, RATE) for row in mixed])
    assert (embedder(mixed, RATE) - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("num_samples", [1, 30, 40, 41, 60, 61, 100, 101, 997])
@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_cut_windows(num_samples: int, block: int) -> None:
    size, margin = 40, 20
    samples = torch.arange(num_samples)
    windows = list(cut_windows(samples.split(block), size, margin))
    assert [each.is_first for each in windows] == [True] + [False] * (len(windows) - 1)
    assert [each.is_last for each in windows] == [False] * (len(windows) - 1) + [True]
    for number, window in enumerate(windows):
        start = max(number * size - margin, 0)
        stop = num_samples if window.is_last else (number + 1) * size + margin
        assert torch.equal(window.waveform, samples[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder.untrained(dim=16).to(dtype)
    waveforms = 0.1 * torch.randn(2, 40000, generator=torch.Generator().manual_seed(0))
    uneven = [waveforms[0], waveforms[1, :20000]]

    def results() -> list[torch.Tensor]:
        parts = embedder.clips.embed_stream(iter(waveforms[0].split(9000)))
        frames = [embedder.frames(each, 16000)[0].nan_to_num() for each in (waveforms, uneven)]
        return [embedder(waveforms, 16000), embedder(uneven, 16000), parts, *frames]

    for max_seconds in (240.0, 1.0):
        monkeypatch.setattr(clip_encoder, "MAX_SECONDS", max_seconds)
        expected = results()
        with torch.autocast("cpu", torch.bfloat16):
            found = results()
        for ours, other in zip(found, expected, strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, other)


def test_a_forked_process_embeds_too() -> None:
    """Embed in a fork, which would wait forever for the threads of its parent."""
    script = (
        "import os, torch, byola_rq\ntorch.set_num_threads(2)\nmodel = byola_rq.load()\n"
        "x = torch.randn(2, 40000) * 0.1\nexpected = model(x, 16000)\nchild = os.fork()\n"
        "if not child:\n"
        "    again = byola_rq.load()\n"
        "    same = all(torch.allclose(m(x, 16000), expected, atol=1e-5) for m in (model, again))\n"
        "    os._exit(0 if same else 7)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 240.0),
        ({"hop_length": 80}, 120.0),
        ({"hop_length": 1}, 1.5),
        ({"n_mels": 512}, 30.0),
        ({"hop_length": 4000}, 240.0),
    ],
)
def test_what_goes_through_at_once_is_bounded(options: dict[str, int], seconds: float) -> None:
    """Whatever the frontend makes of a second: as many log-mel values as the paper's of 240 s."""
    embedder = Embedder.untrained(dim=16, frontend=LogMelSpectrogram(**options))
    clips = embedder.clips
    assert clips.max_samples / clips.frontend.sample_rate == pytest.approx(seconds, rel=1e-3)
