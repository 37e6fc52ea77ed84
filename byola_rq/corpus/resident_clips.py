"""Packed clips that lie on the device whole: segments are gathered there, none is sent."""

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

AUTO_SHARE = 0.1  # of a GPU's memory that clips take unasked, and at most half of what is free
DEMANDED_SHARE = 0.8  # of what is free, where they are told to lie there

_SHORT_AT_ONCE = 4096  # clips


class ResidentClips:
    """All samples of packed clips on a device, int16.

    The shards lie there as they are. Clips that are shorter than a segment follow once more, each
    between its zeros, so that every segment is a stretch of one tensor.

    Args:
        clips: Packed clips.
        segment_samples: Length of a segment, S.
        device: Where they are to lie.

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
        """As `load_batches` of `corpus`, which holds the same clips, but not the segments.

        In place of the waveform stands where in the resident samples each begins, int64 `(B,)`.
        """
        for items in samples:
            keys, starts = corpus.draw(items)
            yield SegmentBatch(torch.from_numpy(self._begins[items[:, 1]] + starts), keys)

    def gather(self, begins: Tensor, out: Tensor | None = None) -> Tensor:
        """Segments, int16 `(B, S)`, that begin there; `begins` lies on the device."""
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
    """Memory that these clips take on a device."""
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
    """Put clips onto a GPU where `resident` (data.resident) says so.

    Args:
        clips: Of any kind; only packed ones can lie there.
        resident: Whether they must, or, with auto, may where they are few.
        segment_samples: Length of a segment.
        device: Where steps work.
        source: Where the clips are from, named in errors.

    Returns:
        None where they are read from where they are.

    Raises:
        ConfigError: If they must lie on a GPU, and cannot.
        CorpusError: If a shard cannot be read.
    """
    if resident is False:
        return None
    try:
        return _placed(clips, segment_samples, device, is_demanded=resident is True)
    except _UnplacedError as error:
        if resident == "auto":
            return None
        message = f"{source}: data.resident must be auto or false, as {error}; got true"
        raise ConfigError(
            message, code=error.code, path=source, key="data.resident", value=True
        ) from None


class _UnplacedError(Exception):
    """Clips that cannot lie on a device, and why."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _placed(
    clips: Clips, segment_samples: int, device: torch.device, *, is_demanded: bool
) -> ResidentClips:
    if not isinstance(clips, PackedClips):
        raise _UnplacedError("unsupported", "only what `byola-rq prepare` has packed can lie there")
    if device.type != "cuda":
        raise _UnplacedError("missing", "run.device is no GPU")
    free, total = torch.cuda.mem_get_info(device)
    room = DEMANDED_SHARE * free if is_demanded else min(AUTO_SHARE * total, free / 2)
    num_bytes = count_resident_bytes(clips, segment_samples)
    reason = f"the clips take {num_bytes / 2**20:.0f} MiB of {device}, {room / 2**20:.0f} are there"
    if num_bytes > room:
        raise _UnplacedError("too-large", reason)
    try:
        return ResidentClips(clips, segment_samples, device)
    except torch.OutOfMemoryError:  # another process was faster
        raise _UnplacedError("too-large", reason) from None


def _read_shard(path: Path) -> npt.NDArray[np.int16]:
    try:
        samples: npt.NDArray[np.int16] = np.load(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        message = f"{path}: not a shard that can be read ({reason})"
        raise CorpusError(message, code="unreadable", path=path) from error
    return samples
