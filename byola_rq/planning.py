"""Sources and options -> the list of clips and the plan of their corpus."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile

from byola_rq.clip_source import ClipSource, Listing
from byola_rq.confinement import Limits
from byola_rq.decoding import ClipRules, jobs_of, measure_clips
from byola_rq.packed import SAMPLE_RATE, read_info
from byola_rq.plan import Plan, digest_shards, read_plan
from byola_rq.sources import list_sources

MEASURED_CLIPS = 64  # whose headers tell how long the clips are
USUAL_SECONDS = 10.0  # of a clip, where no header does

_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class PackingOptions:
    """What decides the result, beside the sources.

    Args:
        rules: How long a clip may be.
        limits: What decoding one clip may take.
        shard_megabytes: Size of a shard, about.
        limit: Only so many clips, the first of the list; None: all.
    """

    rules: ClipRules = field(default_factory=ClipRules)
    limits: Limits = field(default_factory=Limits)
    shard_megabytes: float = 1000.0
    limit: int | None = None

    def record(self, sources: Sequence[str]) -> dict[str, Any]:
        """What the plan keeps of them, with the libraries that decide about the last bit."""
        return {
            "sources": list(sources),
            "limit": self.limit,
            "min_seconds": self.rules.min_seconds,
            "max_seconds": self.rules.max_seconds,
            "clip_timeout": self.limits.seconds,
            "clip_memory": self.limits.gigabytes,
            "shard_megabytes": self.shard_megabytes,
            "versions": {
                "byola_rq": version("byola_rq"),
                "libsndfile": soundfile.__libsndfile_version__,
                "soxr": version("soxr"),
            },
        }


def list_clips(sources: Sequence[str], options: PackingOptions) -> Listing:
    """List the sources' clips, as many as wanted; says on stderr what the listing notes.

    Raises:
        CorpusError: As `list_sources`.
    """
    found = 0
    last_line = time.monotonic()

    def on_clip() -> None:
        nonlocal found, last_line
        found += 1
        if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            _say(f"listing clips: {found} so far")

    listing = list_sources(sources, on_clip=on_clip)
    for note in listing.notes:
        _say(note)
    if options.limit is not None:
        del listing.clips[options.limit :]
    return listing


def make_plan(
    listing: Listing,
    sources: Sequence[str],
    options: PackingOptions,
    num_workers: int,
    folder: Path | None = None,
) -> Plan:
    """The plan that follows from a listing.

    Args:
        listing: What `list_clips` gave.
        sources: As the user named them.
        options: Of the corpus.
        num_workers: Processes that measure clips.
        folder: Of the corpus; one that was begun says how many clips a shard has. None: measure.

    Raises:
        CorpusError: If what the folder holds cannot be read.
        WorkerError: If no process can be started.
    """
    mean_seconds, clips_per_shard = _sizes_before(folder) if folder else (0.0, 0)
    if not clips_per_shard:
        mean_seconds = _measure_mean(listing.clips, options, num_workers)
        bytes_per_clip = mean_seconds * SAMPLE_RATE * 2
        clips_per_shard = max(round(options.shard_megabytes * 1e6 / bytes_per_clip), 1)
    left_out = [
        *((source, "no such file, but a list or manifest names it") for source in listing.missing),
        *listing.damaged,
        *((dropped, f"same clip as {kept}") for kept, dropped in listing.duplicates),
    ]
    return Plan(
        options=options.record(sources),
        num_clips=len(listing.clips),
        clips_per_shard=clips_per_shard,
        mean_seconds=mean_seconds,
        digests=digest_shards(map(_row, listing.clips), clips_per_shard),
        rejected=left_out,
        num_duplicates=len(listing.duplicates),
    )


def _sizes_before(folder: Path) -> tuple[float, int]:
    if (folder / "corpus.json").exists():
        return 0.0, int(read_info(folder)["options"]["clips_per_shard"])
    begun = read_plan(folder)
    return (begun.mean_seconds, begun.clips_per_shard) if begun else (0.0, 0)


def _measure_mean(clips: Sequence[ClipSource], options: PackingOptions, num_workers: int) -> float:
    """Mean length of clips spread evenly over the list, those that cannot be packed as 0 s."""
    num_measured = min(MEASURED_CLIPS, len(clips))
    places = [i * len(clips) // num_measured for i in range(num_measured)]
    lengths = measure_clips(
        jobs_of([clips[place] for place in places]),
        options.rules,
        num_workers=min(num_workers, num_measured),
        limits=options.limits,
    )
    return sum(lengths) / num_measured or USUAL_SECONDS


def _row(clip: ClipSource) -> str:
    """A clip as a line that tells it from every other."""
    place = (clip.offset, clip.size, clip.row, clip.start_seconds, clip.num_seconds)
    return f"{clip.clip_id}\t{clip}\t{place}\t{clip.may_be_cut}\t{clip.labels}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
