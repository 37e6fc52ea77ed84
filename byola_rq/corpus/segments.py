"""Random segments of fixed length from clips, packed or decoded on demand."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.corpus.clips import Clips
from byola_rq.corpus.decoded_clips import UnreadableClipError, measure_readable_clips
from byola_rq.corpus.order import IntArray
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.packed_format import is_packed
from byola_rq.errors import AudioError, Code, CorpusError
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.rng import fold_in, integers, sample_keys
from byola_rq.sources.clip_source import ClipSource, Listing
from byola_rq.sources.listing import list_sources

INT16_SCALE = 2.0**-15  # exact: it changes only the exponent of a float32
MAX_NEIGHBORS = 100  # tried in place of a clip that cannot be decoded


class Replacement(NamedTuple):
    """Record of a clip that could not be decoded and the clip that replaced it."""

    clip_index: int
    replaced_by: int
    reason: str


class SegmentBatch(NamedTuple):
    """Batch of segments.

    Args:
        waveform: Segments `(B, S)`, float32 or int16.
        key: Randomness key of each segment, int64 `(B,)`.
        replacements: Records of clips that could not be decoded.
    """

    waveform: Tensor
    key: Tensor
    replacements: tuple[Replacement, ...] = ()

    def to(self, device: torch.device) -> "SegmentBatch":
        """Copy to a device as float32; int16 is copied and converted there, exactly."""
        waveform = self.waveform.to(device, non_blocking=True)
        if waveform.dtype == torch.int16:
            waveform = waveform.to(torch.float32).mul_(INT16_SCALE)
        return self._replace(waveform=waveform, key=self.key.to(device, non_blocking=True))


class SegmentCorpus:
    """Corpus of random segments, one of each clip per epoch, read on demand.

    The position of a segment is a function of (seed, epoch, clip index) only. Clips shorter than a
    segment are padded with zeros at both ends.

    A clip that cannot be decoded is replaced by the next one (by index, cyclically) that can be.
    The key is that of the replaced clip; the position follows from this key and the length of the
    replacement. So replacements are the same in every process and after every resumption.

    Args:
        clips: Clips to read from.
        segment_samples: Length of a segment in samples.
        seed: Seed of the positions and keys.
    """

    def __init__(self, clips: Clips, *, segment_samples: int, seed: int) -> None:
        self.clips = clips
        self.segment_samples = segment_samples
        self.seed = seed

    def load(self, items: npt.ArrayLike) -> SegmentBatch:
        """Read one segment for each (epoch, clip index), `(B, 2)`.

        Raises:
            AudioError: If neither a clip nor the 100 clips after it can be decoded.
        """
        items = np.asarray(items, np.int64)
        segments = np.empty((len(items), self.segment_samples), self.clips.dtype)
        keys, replacements = self.load_into(segments, items)
        return SegmentBatch(torch.from_numpy(segments), torch.from_numpy(keys), replacements)

    def load_into(
        self, segments: npt.NDArray[np.generic], items: IntArray
    ) -> tuple[IntArray, tuple[Replacement, ...]]:
        """Read segments as `load` into existing memory; return keys and replacements."""
        keys, starts = self.draw(items)
        replacements: list[Replacement] = []
        first = 0
        while True:
            try:
                self.clips.fill(segments[first:], items[first:, 1], starts[first:])
                return keys.numpy(), tuple(replacements)
            except UnreadableClipError as error:
                row = first + error.row
                replaced_by = self._fill_with_neighbor(
                    segments[row : row + 1], int(items[row, 1]), keys[row : row + 1], error
                )
                replacements.append(Replacement(int(items[row, 1]), replaced_by, error.reason))
                first = row + 1

    def draw(self, items: IntArray) -> tuple[Tensor, IntArray]:
        """Draw each segment's key, int64 `(B,)`, and its first sample within its clip, `(B,)`."""
        epochs, indices = torch.from_numpy(items).unbind(dim=1)
        keys = sample_keys(self.seed, epochs, indices)
        return keys, self._draw_starts(keys, items[:, 1])

    def _draw_starts(self, keys: Tensor, indices: IntArray) -> IntArray:
        """Draw the first sample of each segment within its clip, `(B,)`."""
        room = torch.from_numpy(self.clips.num_samples[indices])
        room = (room - self.segment_samples + 1).clamp(min=1)
        return integers(fold_in(keys, "segment"), room).numpy()

    def _fill_with_neighbor(
        self, segment: npt.NDArray[np.generic], index: int, key: Tensor, error: AudioError
    ) -> int:
        """Fill one segment, `(1, S)`, from the next clip that can be decoded; return its index."""
        num_neighbors = min(MAX_NEIGHBORS, len(self.clips) - 1)
        for distance in range(1, num_neighbors + 1):
            neighbor = np.array([(index + distance) % len(self.clips)])
            with contextlib.suppress(AudioError):
                self.clips.fill(segment, neighbor, self._draw_starts(key, neighbor))
                return int(neighbor[0])
        others = f" (and {num_neighbors} clips after it like it)" if num_neighbors else ""
        raise AudioError(f"{error}{others}", **error.facts) from error


def open_clips(
    sources: Sequence[Path], sample_rate: int, log: Callable[[str], object]
) -> tuple[Clips, list[tuple[ClipSource, str]]]:
    """Open packed corpora, or list and measure the clips of other sources.

    Args:
        sources: Packed corpora, or sources in the forms of `list_sources`.
        sample_rate: Sample rate of the segments in Hz.
        log: Function that prints a line about the clips.

    Returns:
        The clips, and (source, reason) of those that cannot be read.

    Raises:
        CorpusError, AudioError: If a source cannot be used, or more than 1 % of the clips.
    """
    packed = open_packed_clips(sources, sample_rate)
    if packed is not None:
        return packed, []
    found, notes = find_clips(sources)
    for note in notes:
        log(note)
    with ProgressBar("reading headers", len(found)) as bar:
        return measure_readable_clips(found, sample_rate, bar.advance)


def open_packed_clips(sources: Sequence[Path], sample_rate: int) -> PackedClips | None:
    """Open packed corpora; None if no source is one.

    Raises:
        CorpusError: If some are packed and some are not, one cannot be used, or their sample rate
            is not `sample_rate`.
    """
    unpacked = [source for source in sources if not is_packed(source)]
    if len(unpacked) == len(sources):
        return None
    if unpacked:
        raise CorpusError(
            f"{unpacked[0]}: data.source must name only packed corpora, or none; this is not one. "
            "Pack it first (`byola-rq prepare`)",
            code="foreign",
            path=unpacked[0],
            key="data.source",
        )
    clips = PackedClips.open(sources)
    if clips.sample_rate != sample_rate:
        raise CorpusError(
            f"{sources[0]}: frontend.sample_rate must be {clips.sample_rate}, as in the packed "
            f"corpus; got {sample_rate}",
            code="different",
            path=sources[0],
            key="frontend.sample_rate",
            value=sample_rate,
        )
    return clips


class Fault(NamedTuple):
    """Entry of a source that cannot be used as a clip, and the reason."""

    code: Code
    source: str
    reason: str


def find_clips(sources: Sequence[Path]) -> tuple[list[ClipSource], list[str]]:
    """List the clips of sources that are not packed and allow random access.

    Args:
        sources: Sources in the forms of `list_sources`, except Parquet of encoded audio.

    Returns:
        The clips in a fixed order, and lines about them for the user.

    Raises:
        CorpusError: If a source cannot be used, or something in it is damaged or missing. Missing
            segments of an AudioSet list are not an error.
    """
    listing, faults = list_with_faults(sources)
    check_faults(sources, faults)
    notes = list(listing.notes)
    if listing.duplicates:
        notes.append(f"{len(listing.duplicates)} clips are duplicates; each is used once")
    return listing.clips, notes


def list_with_faults(
    sources: Sequence[Path], *, keep_repeats: bool = False
) -> tuple[Listing, list[Fault]]:
    """List clips as `find_clips`, and return damaged and missing entries instead of raising.

    Args:
        sources: Sources in the forms of `find_clips`.
        keep_repeats: List a clip as often as it is named.

    Raises:
        CorpusError: If a source cannot be used.
    """
    _check_readable(sources)
    listing = list_sources(sources, keep_repeats=keep_repeats)
    faults = [Fault("damaged", where, reason) for where, reason in listing.damaged]
    if all(source.exists() for source in sources):
        for line in listing.missing:
            where, _, reason = line.partition(": ")
            faults.append(Fault("missing", where, reason))
    rule = "clips in Parquet cannot be read at random"
    faults += [Fault("unsupported", str(clip), rule) for clip in listing.clips if clip.row >= 0]
    listing.clips = [clip for clip in listing.clips if clip.row < 0]
    return listing, faults


def check_faults(sources: Sequence[Path], faults: Sequence[Fault]) -> None:
    """Raise CorpusError if there are faults; it names the first and gives the number of others."""
    if not faults:
        return
    code, where, reason = faults[0]
    line = f"{where}: {reason}"
    others = f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else ""
    raise CorpusError(
        f"{line}{others}; `byola-rq prepare` packs what can be read into a corpus",
        code=code,
        path=max((each for each in map(str, sources) if line.startswith(each)), default=None),
    )


def _check_readable(sources: Sequence[Path]) -> None:
    """Raise if there is no source, or one is packed or partly packed."""
    if not sources:
        raise CorpusError(
            "data.source must name a folder, manifest, tar or audio file, or a packed corpus",
            code="missing",
            key="data.source",
        )
    for source in sources:
        if is_packed(source):
            raise CorpusError(
                f"{source}: only pretraining reads packed corpora; name the sources it was packed "
                "from",
                code="unsupported",
                path=source,
            )
    if unfinished := [source for source in sources if (source / ".parts").is_dir()]:
        raise CorpusError(
            f"{unfinished[0]}: its packing is not finished; run its `byola-rq prepare` again",
            code="cut",
            path=unfinished[0],
        )
