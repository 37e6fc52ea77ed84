"""Unlabelled clips (folder, manifest) as a map-style dataset of fixed-length crops."""

import csv
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from byola_rq.audio import AUDIO_SUFFIXES, inspect_audio, pad_both_ends, read_audio
from byola_rq.errors import AudioError, ByolaRQError, CorpusError
from byola_rq.prefetch import map_ahead
from byola_rq.randomness import fold_in, integers, permutation, sample_keys

MANIFEST_COLUMNS = ("path", "file_name")  # the first that a manifest has names its clips


class SegmentBatch(NamedTuple):
    """Waveforms float32 `(B, S)` and the randomness key of each segment, int64 `(B,)`."""

    waveform: Tensor
    key: Tensor


@dataclass(frozen=True)
class Clips:
    """Audio files in a fixed order, with their lengths in samples at one sample rate."""

    paths: list[Path]
    num_samples: list[int]
    sample_rate: int

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def hours(self) -> float:
        """Total length."""
        return sum(self.num_samples) / self.sample_rate / 3600

    @property
    def digest(self) -> str:
        """SHA-256 of names and lengths: what tells a resumed run that its clips are the same."""
        rows = zip(self.paths, self.num_samples, strict=True)
        text = "\n".join(f"{path.name}\t{length}" for path, length in rows)
        return hashlib.sha256(f"{self.sample_rate}\n{text}".encode()).hexdigest()


def find_clips(sources: Sequence[Path]) -> list[Path]:
    """List the audio files of folders (any depth), manifests (csv, tsv) and single files.

    A folder's files come in the order of their names, a manifest's in its own; what comes twice
    is kept once.

    Raises:
        CorpusError: If a source does not exist, holds no audio, or a manifest's row names a file
            that is not there.
    """
    if not sources:
        raise CorpusError("data.source must name a folder, a manifest (csv, tsv) or audio files")
    paths: dict[Path, None] = {}
    for source in sources:
        for path in _find_in(Path(source)):
            paths[path] = None
    return list(paths)


def measure_clips(
    paths: Sequence[Path], sample_rate: int, on_clip: Callable[[], object] = lambda: None
) -> Clips:
    """Read every clip's header, in threads; `on_clip` is called once for each.

    Raises:
        AudioError: If a clip cannot be read; names the first such file and counts the others.
    """

    def measure(path: Path) -> int | AudioError:
        try:
            return inspect_audio(path).num_samples_at(sample_rate)
        except AudioError as error:
            return error

    lengths: list[int] = []
    errors: list[AudioError] = []
    for result in map_ahead(measure, paths, min(32, 4 * (os.cpu_count() or 1))):
        on_clip()
        if isinstance(result, AudioError):
            errors.append(result)
        else:
            lengths.append(result)
    if errors:
        others = f" (and {len(errors) - 1} more clips like it)" if len(errors) > 1 else ""
        raise AudioError(f"{errors[0]}{others}; remove it from data.source")
    return Clips(paths=list(paths), num_samples=lengths, sample_rate=sample_rate)


class SegmentCorpus(Dataset[SegmentBatch]):
    """One random segment of a clip per epoch, decoded and resampled when asked for.

    Where the segment lies is a function of (seed, epoch, clip index) alone. Clips shorter than a
    segment are padded with zeros at both ends.

    Args:
        clips: What `measure_clips` gave.
        segment_samples: Length of a segment.
        seed: Of the order, the places and the keys handed out.
    """

    def __init__(self, clips: Clips, *, segment_samples: int, seed: int) -> None:
        self.clips = clips
        self.segment_samples = segment_samples
        self.seed = seed

    def __getitems__(self, items: list[tuple[int, int]]) -> SegmentBatch | ByolaRQError:
        """As `load`, but an error of ours is returned, not raised.

        Raised in a loader's process, it would become a page of traceback on its way here.
        """
        try:
            return self.load(items)
        except ByolaRQError as error:
            return error

    def load(self, items: list[tuple[int, int]]) -> SegmentBatch:
        """Decode one segment for each (epoch, clip index).

        Raises:
            AudioError: If a clip cannot be decoded.
        """
        epochs, indices = torch.tensor(items, dtype=torch.int64).unbind(dim=1)
        keys = sample_keys(self.seed, epochs, indices)
        room = torch.tensor([self.clips.num_samples[index] for _, index in items])
        room = (room - self.segment_samples + 1).clamp(min=1)
        starts = integers(fold_in(keys, "segment"), room).tolist()
        segments = [
            self._segment(index, start) for (_, index), start in zip(items, starts, strict=True)
        ]
        return SegmentBatch(torch.stack(segments), keys)

    def _segment(self, index: int, start: int) -> Tensor:
        waveform = read_audio(
            self.clips.paths[index], self.clips.sample_rate, start, self.segment_samples
        )
        return pad_both_ends(waveform, self.segment_samples)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """(epoch, clip index) of every sample of the steps `first_step` to `num_steps` - 1.

    The epochs' permutations follow each other without a gap: step s takes the places s * B to
    (s + 1) * B - 1 of that endless order, so no clip is dropped and any step can be the first.
    """

    def __init__(
        self, num_clips: int, batch_size: int, *, seed: int, first_step: int, num_steps: int
    ) -> None:
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> list[int]:
            indices: list[int] = permutation(self.num_clips, seed=self.seed, epoch=epoch).tolist()
            return indices

        for step in self.steps:
            places = range(step * self.batch_size, (step + 1) * self.batch_size)
            split = (divmod(place, self.num_clips) for place in places)
            yield [(epoch, order(epoch)[rank]) for epoch, rank in split]


def load_batches(
    corpus: SegmentCorpus,
    samples: Sampler[list[tuple[int, int]]] | Sequence[list[tuple[int, int]]],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[SegmentBatch]:
    """Decode the batches that `samples` lists, ahead of their use in `num_workers` processes.

    Raises:
        AudioError: If a clip cannot be decoded; names the file.
    """
    loader = DataLoader(
        corpus,
        batch_sampler=samples,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, ByolaRQError):
            raise batch
        # Pinning rebuilds the tuple; its fields stay in order.
        yield SegmentBatch(*batch)


def default_num_workers(device: torch.device) -> int:
    """Loader processes that leave the training process its cores."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores - 1, 16 if device.type == "cuda" else 1)


def _as_it_is(batch: Any) -> Any:
    """What `__getitems__` gives is a batch already."""
    return batch


def _find_in(source: Path) -> list[Path]:
    if source.is_dir():
        found = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in AUDIO_SUFFIXES
            and not path.name.startswith(".")
            and path.is_file()
        )
        if not found:
            known = ", ".join(sorted(AUDIO_SUFFIXES))
            raise CorpusError(f"{source}: no audio file in this folder (looked for {known})")
        return found
    if not source.is_file():
        raise CorpusError(f"{source}: no such file or folder")
    if source.suffix.lower() in {".csv", ".tsv"}:
        return _read_manifest(source)
    if source.suffix.lower() in AUDIO_SUFFIXES:
        return [source]
    raise CorpusError(f"{source}: must be a folder, a .csv or .tsv manifest, or an audio file")


def _read_manifest(manifest: Path) -> list[Path]:
    """Clips of the column `path` (or `file_name`), relative to the manifest's folder."""
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{manifest}: not a manifest that can be read ({error})") from error
    if not rows:
        raise CorpusError(f"{manifest}: no clip listed")
    column = next((name for name in MANIFEST_COLUMNS if name in rows[0]), None)
    if column is None:
        raise CorpusError(
            f"{manifest}: must have a column path; its columns are {', '.join(map(str, rows[0]))}"
        )
    paths = []
    for number, row in enumerate(rows, start=2):
        path = manifest.parent / (row[column] or "")
        if not row[column] or not path.is_file():
            raise CorpusError(f"{manifest}: row {number}: no such file: {row[column]!r}")
        paths.append(path)
    return paths
