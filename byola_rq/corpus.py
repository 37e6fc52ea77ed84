"""Unlabelled clips (packed corpora, or sources decoded on demand) as fixed-length random crops."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.clip_source import ClipSource
from byola_rq.clips import Clips
from byola_rq.errors import CorpusError
from byola_rq.order import IntArray
from byola_rq.packed import is_packed
from byola_rq.packed_clips import PackedClips
from byola_rq.randomness import fold_in, integers, sample_keys
from byola_rq.sources import list_sources


class SegmentBatch(NamedTuple):
    """Waveforms `(B, S)`, float32 or int16, and each segment's randomness key, int64 `(B,)`."""

    waveform: Tensor
    key: Tensor

    def to(self, device: torch.device) -> "SegmentBatch":
        """On the device, in float32: int16 crosses the bus and is converted there, exactly."""
        waveform = self.waveform.to(device, non_blocking=True)
        if waveform.dtype == torch.int16:
            waveform = waveform.to(torch.float32).mul_(2.0**-15)
        return SegmentBatch(waveform, self.key.to(device, non_blocking=True))

    def pinned(self) -> "SegmentBatch":
        """A copy in pinned memory, from which a GPU fetches by itself."""
        return SegmentBatch(self.waveform.pin_memory(), self.key.pin_memory())


class SegmentCorpus:
    """One random segment of a clip per epoch, read when asked for.

    Where the segment lies is a function of (seed, epoch, clip index) alone. Clips shorter than a
    segment are padded with zeros at both ends.

    Args:
        clips: What to cut from.
        segment_samples: Length of a segment.
        seed: Of the places and the keys handed out.
    """

    def __init__(self, clips: Clips, *, segment_samples: int, seed: int) -> None:
        self.clips = clips
        self.segment_samples = segment_samples
        self.seed = seed

    def load(self, items: npt.ArrayLike) -> SegmentBatch:
        """Read one segment for each (epoch, clip index), `(B, 2)`.

        Raises:
            AudioError: If a clip cannot be decoded.
        """
        items = np.asarray(items, np.int64)
        segments = np.empty((len(items), self.segment_samples), self.clips.dtype)
        keys = self.load_into(segments, items)
        return SegmentBatch(torch.from_numpy(segments), torch.from_numpy(keys))

    def load_into(self, segments: npt.NDArray[np.generic], items: IntArray) -> IntArray:
        """As `load`, into memory that is there already; returns the keys."""
        epochs, indices = torch.from_numpy(items).unbind(dim=1)
        keys = sample_keys(self.seed, epochs, indices)
        room = torch.from_numpy(self.clips.num_samples[items[:, 1]])
        room = (room - self.segment_samples + 1).clamp(min=1)
        starts = integers(fold_in(keys, "segment"), room)
        self.clips.fill(segments, items[:, 1], starts.numpy())
        return keys.numpy()


def open_packed_clips(sources: Sequence[Path], sample_rate: int) -> PackedClips | None:
    """Open packed corpora; None where `sources` are something else.

    Raises:
        CorpusError: If some are packed and some are not, one cannot be used, or their sample rate
            is not `sample_rate`.
    """
    unpacked = [source for source in sources if not is_packed(source)]
    if len(unpacked) == len(sources):
        return None
    if unpacked:
        raise CorpusError(
            f"{unpacked[0]}: data.source must name packed corpora alone, or none; this is not one. "
            "Pack it first (`byola-rq prepare`)"
        )
    clips = PackedClips.open(sources)
    if clips.sample_rate != sample_rate:
        raise CorpusError(
            f"{sources[0]}: frontend.sample_rate must be {clips.sample_rate}, the packed corpus'; "
            f"got {sample_rate}"
        )
    return clips


def find_clips(sources: Sequence[Path]) -> tuple[list[ClipSource], list[str]]:
    """List the clips of sources that are read as they are: those that can be read at random.

    Args:
        sources: As for `list_sources`, Parquet of encoded audio excepted.

    Returns:
        The clips in a fixed order, and lines about them for the user.

    Raises:
        CorpusError: If a source cannot be used, or holds something damaged or missing. What an
            AudioSet list names and nobody has any more is not an error.
    """
    if not sources:
        raise CorpusError(
            "data.source must name a folder, manifest, tar or audio file, or a packed corpus"
        )
    for source in sources:
        if is_packed(source):
            raise CorpusError(
                f"{source}: only pretraining reads packed corpora; name what it was packed from"
            )
    if unfinished := [source for source in sources if (source / ".parts").is_dir()]:
        raise CorpusError(
            f"{unfinished[0]}: its packing is not finished; give its `byola-rq prepare` again"
        )
    listing = list_sources(sources)
    problems = [f"{where}: {reason}" for where, reason in listing.damaged]
    if all(source.exists() for source in sources):
        problems += listing.missing
    problems += [
        f"{clip}: clips in Parquet cannot be read at random"
        for clip in listing.clips
        if clip.row >= 0
    ]
    if problems:
        others = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise CorpusError(
            f"{problems[0]}{others}; `byola-rq prepare` packs what can be read into a corpus"
        )
    notes = list(listing.notes)
    if listing.duplicates:
        notes.append(f"{len(listing.duplicates)} clips are there twice; each is used once")
    return listing.clips, notes
