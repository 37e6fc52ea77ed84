"""The segment of a clip to listen to, and unrelated segments to compare it with."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.io import AUDIO_SUFFIXES, inspect_audio, pad_both_ends, read_audio, resample
from byola_rq.errors import AudioError
from byola_rq.runtime.rng import permutation
from byola_rq.synthesis.generate import make_clip
from byola_rq.synthesis.primitives import SAMPLE_RATE as SYNTHESIS_RATE
from byola_rq.text.shown import shown

_MAX_FILES = 10_000  # listed in a folder, which may have millions

VARIED_KINDS = (
    "voice-fr", "event-siren", "note-brass", "word-yes", "phrase-guitar", "event-rain",
)  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """Segment of a clip as the network gets it.

    `waveform` is float32 `(S,)`, padded with zeros at both ends if the clip is shorter. It begins
    `start_seconds` into the clip, whose length is `clip_seconds`; `clip_rate`, in Hz, and
    `num_channels` are the file's.
    """

    name: str
    waveform: Tensor
    sample_rate: int
    start_seconds: float
    clip_seconds: float
    clip_rate: int
    num_channels: int

    @property
    def sounding_seconds(self) -> float:
        """Length of the clip's part of the segment in seconds; the rest is padding."""
        length = len(self.waveform) / self.sample_rate
        return min(self.clip_seconds - self.start_seconds, length)


def read_segment(
    clip: Path, sample_rate: int, num_samples: int, start: float | None = None
) -> Segment:
    """Read one segment, decoding little more than it, and at most a minute of the clip.

    Args:
        clip: Audio file.
        sample_rate: Sample rate of the segment, in Hz.
        num_samples: Length of the segment in samples.
        start: Start of the segment in seconds; by default the loudest place of the first minute.

    Raises:
        AudioError: If the clip cannot be read, or `start` is not within it.
    """
    info = inspect_audio(clip)
    clip_seconds = info.num_samples / info.sample_rate
    if start is None:
        minute = read_audio(clip, sample_rate, 0, max(60 * sample_rate, num_samples))
        first = _loudest_place(minute, num_samples)
        waveform = minute[first : first + num_samples]
    elif 0 <= start < clip_seconds:
        first = min(round(start * sample_rate), info.num_samples_at(sample_rate) - 1)
        waveform = read_audio(clip, sample_rate, first, num_samples)
    else:
        message = (
            f"{clip}: start must be at least 0 and before the end of the clip, at "
            f"{clip_seconds:.3f} s; got {start:g} s"
        )
        raise AudioError(message, code="value", path=clip, key="start", value=start)
    return Segment(
        name=shown(clip.name),
        waveform=pad_both_ends(waveform, num_samples),
        sample_rate=sample_rate,
        start_seconds=first / sample_rate,
        clip_seconds=clip_seconds,
        clip_rate=info.sample_rate,
        num_channels=info.num_channels,
    )


def read_beside(
    clip: Path, sample_rate: int, num_samples: int, *, most: int, seed: int
) -> list[Segment]:
    """Read segments of other files in the clip's folder, at most `most`."""
    segments: list[Segment] = []
    for path in _files_beside(clip, seed):
        if len(segments) == most:
            break
        try:
            segments.append(read_segment(path, sample_rate, num_samples))
        except AudioError:  # not the requested clip, so not worth a message
            continue
    return segments


def synthesize_segments(
    sample_rate: int, num_samples: int, *, num: int = len(VARIED_KINDS), seed: int
) -> list[Segment]:
    """Synthesize segments of different kinds of sound, each cut at its loudest place."""
    return [
        make_segment(VARIED_KINDS[number % len(VARIED_KINDS)], sample_rate, num_samples, seed=seed)
        for number in range(num)
    ]


def make_segment(kind: str, sample_rate: int, num_samples: int, *, seed: int) -> Segment:
    """Synthesize a segment of one of `byola_rq.synthesis.generate.KINDS`."""
    seconds = max(2 * num_samples / sample_rate, 2.0)
    sound = torch.from_numpy(make_clip(kind, seed=seed, seconds=seconds).astype(np.float32))
    sound = resample(sound, SYNTHESIS_RATE, sample_rate)
    first = _loudest_place(sound, num_samples)
    return Segment(
        name=f"synthesized {kind.replace('-', ' ').replace('_', ' ')}",
        waveform=sound[first : first + num_samples],
        sample_rate=sample_rate,
        start_seconds=first / sample_rate,
        clip_seconds=len(sound) / sample_rate,
        clip_rate=SYNTHESIS_RATE,
        num_channels=1,
    )


def _loudest_place(waveform: Tensor, num_samples: int) -> int:
    """Return the start of the segment with the most energy, to a quarter of its length."""
    if len(waveform) <= num_samples:
        return 0
    hop = max(num_samples // 4, 1)
    energy = waveform.square().unfold(0, num_samples, hop).sum(dim=-1)
    return int(energy.argmax()) * hop


def _files_beside(clip: Path, seed: int) -> list[Path]:
    """Return other audio files of the clip's folder, in an order drawn by the seed."""
    found = sorted(
        path
        for path in islice(clip.resolve().parent.iterdir(), _MAX_FILES)
        if path.suffix.lower() in AUDIO_SUFFIXES
        and path.name != clip.resolve().name
        and not path.name.startswith(".")
    )
    return [found[place] for place in permutation(len(found), seed=seed, epoch=0).tolist()]
