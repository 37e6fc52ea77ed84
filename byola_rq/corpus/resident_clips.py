"""Packed clips in a GPU's memory: segments are gathered there instead of copied."""

import contextlib
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.corpus.clips import Clips
from byola_rq.corpus.order import IntArray
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.segments import SegmentBatch, SegmentCorpus
from byola_rq.errors import Code, ConfigError, CorpusError
from byola_rq.runtime.progress import ProgressBar
from byola_rq.text.shown import one_line

AUTO_SHARE = 0.1  # of a GPU's memory for data.resident=auto, and at most half of the free memory
DEMANDED_SHARE = 0.8  # of the free memory for data.resident=true

_SHORT_AT_ONCE = 4096  # clips per copy


class ResidentClips:
    """Samples of packed clips in a device's memory, int16.

    The shards are copied unchanged. Clips shorter than a segment are added once more, padded with
    zeros, so that every segment is a slice of one tensor.

    Args:
        clips: Packed clips.
        segment_samples: Length S of a segment in samples.
        device: Device that holds them.

    Raises:
        CorpusError: If a shard cannot be read.
    """

    def __init__(self, clips: PackedClips, segment_samples: int, device: torch.device) -> None:
        self.segment_samples = segment_samples
        sizes = [len(shard.samples) for shard in clips.shards]
        begins = np.cumsum([0, *sizes])
        self._begins: IntArray = begins[clips.shard] + clips.offset  # of each clip, (clips,)
        self.num_bytes = count_resident_bytes(clips, segment_samples)
        samples = torch.empty(self.num_bytes // 2, dtype=torch.int16, device=device)
        with ProgressBar(f"reading clips into {device.type}'s memory", len(sizes)) as bar:
            for path, begin, size in zip(clips.paths, begins, sizes, strict=False):
                samples[begin : begin + size].copy_(torch.from_numpy(_read_shard(path)))
                bar.advance()
        self._add_short_clips(clips, samples, int(begins[-1]))
        self._windows = samples.unfold(0, segment_samples, 1)  # a view, (samples - S + 1, S)

    def load_batches(
        self, corpus: SegmentCorpus, samples: Iterable[IntArray]
    ) -> Generator[SegmentBatch, None, None]:
        """Iterate over batches of `corpus`, which must have the same clips, without segments.

        In place of the waveform they have each segment's first resident sample, int64 `(B,)`.
        """
        for items in samples:
            keys, starts = corpus.draw(items)
            yield SegmentBatch(torch.from_numpy(self._begins[items[:, 1]] + starts), keys)

    def gather(self, begins: Tensor, out: Tensor | None = None) -> Tensor:
        """Gather segments, int16 `(B, S)`, from their first samples `begins`, on the device."""
        return torch.index_select(self._windows, 0, begins, out=out)

    def _add_short_clips(self, clips: PackedClips, samples: Tensor, at: int) -> None:
        length = self.segment_samples
        short = np.flatnonzero(clips.num_samples < length)
        for first in range(0, len(short), _SHORT_AT_ONCE):
            some = short[first : first + _SHORT_AT_ONCE]
            padded = np.empty((len(some), length), np.int16)
            clips.fill(padded, some, np.zeros_like(some))
            samples[at : at + padded.size].copy_(torch.from_numpy(padded.reshape(-1)))
            self._begins[some] = at + np.arange(len(some)) * length
            at += padded.size


def count_resident_bytes(clips: PackedClips, segment_samples: int) -> int:
    """Count the bytes that these clips take on a device."""
    num_short = int((clips.num_samples < segment_samples).sum())
    num_samples = sum(len(shard.samples) for shard in clips.shards) + num_short * segment_samples
    return num_samples * clips.dtype.itemsize


def place_clips(
    clips: Clips,
    *,
    resident: bool | Literal["auto"],
    segment_samples: int,
    device: torch.device,
    source: Path,
) -> ResidentClips | None:
    """Copy clips to a GPU as `resident` (data.resident) demands.

    Args:
        clips: Clips of any kind; only packed ones can be resident.
        resident: True requires it; auto allows it if they are small.
        segment_samples: Length of a segment in samples.
        device: Device of the training steps.
        source: Source of the clips, named in errors.

    Returns:
        The resident clips; None if they stay on disk.

    Raises:
        ConfigError: If they must be resident and cannot be.
        CorpusError: If a shard cannot be read.
    """
    if resident is False:
        return None

    def decline(code: Code, reason: str) -> ResidentClips | None:
        if resident == "auto":
            return None
        message = f"{source}: data.resident must be auto or false, as {reason}; got true"
        raise ConfigError(message, code=code, path=source, key="data.resident", value=True)

    if not isinstance(clips, PackedClips):
        return decline("unsupported", "only packed corpora can be resident")
    if device.type != "cuda":
        return decline("missing", "run.device is no GPU")
    free, total = torch.cuda.mem_get_info(device)
    room = DEMANDED_SHARE * free if resident is True else min(AUTO_SHARE * total, free / 2)
    num_bytes = count_resident_bytes(clips, segment_samples)
    if num_bytes <= room:
        with contextlib.suppress(torch.OutOfMemoryError):  # another process took it meanwhile
            return ResidentClips(clips, segment_samples, device)
    reason = f"the clips take {num_bytes / 2**20:.0f} MiB of {device}; {room / 2**20:.0f} are free"
    return decline("too-large", reason)


def _read_shard(path: Path) -> npt.NDArray[np.int16]:
    try:
        samples: npt.NDArray[np.int16] = np.load(path)
    except (OSError, ValueError) as error:
        message = f"{path}: not a shard that can be read ({one_line(error)})"
        raise CorpusError(message, code="unreadable", path=path) from error
    return samples
