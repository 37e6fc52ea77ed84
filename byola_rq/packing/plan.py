"""Plan of a packed corpus, fixed before its first shard for all processes that pack it."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.corpus.packed_format import read_info
from byola_rq.errors import CorpusError
from byola_rq.packing.decode import ClipRules, jobs_of, measure_lengths
from byola_rq.packing.shards import PARTS, open_parts
from byola_rq.runtime.files import replace_file
from byola_rq.runtime.sandbox import Limits
from byola_rq.sources.clip_source import ClipSource, Listing
from byola_rq.text.parse import read_json
from byola_rq.text.shown import differences

_MEASURED_CLIPS = 64  # clips whose headers give the mean length
_USUAL_SECONDS = 10.0  # assumed length of a clip if none can be measured
_SHAPE = {
    "options": dict,
    "num_clips": int,
    "clips_per_shard": int,
    "mean_seconds": float,
    "digests": [str],
    "rejected": [[str]],
    "num_duplicates": int,
}


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """Options that, with the sources, determine the packed corpus.

    Args:
        rules: Allowed lengths of a clip.
        limits: Time and memory for decoding one clip.
        shard_megabytes: Approximate size of a shard, in MB.
        limit: Number of clips to pack, from the start of the list; None: all.
    """

    rules: ClipRules = field(default_factory=ClipRules)
    limits: Limits = field(default_factory=Limits)
    shard_megabytes: float = 1000.0
    limit: int | None = None

    def record(self, sources: Sequence[str]) -> dict[str, Any]:
        """Return the options as the plan stores them, with the versions that affect the samples."""
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


@dataclass(frozen=True, kw_only=True)
class PackingPlan:
    """Plan of the whole corpus, the same on every machine that packs it.

    Args:
        options: Options and sources, as JSON values.
        num_clips: Number of listed clips.
        clips_per_shard: Clips per shard: shard k has clips k * this to (k + 1) * this - 1.
        mean_seconds: Mean length of a clip in seconds, from the headers of some.
        digests: SHA-256 of each shard's part of the list.
        rejected: Pairs (source, reason) of what the listing left out.
        num_duplicates: Number of these that are duplicates.
    """

    options: dict[str, Any]
    num_clips: int
    clips_per_shard: int
    mean_seconds: float
    digests: list[str]
    rejected: list[tuple[str, str]] = field(default_factory=list)
    num_duplicates: int = 0

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole corpus."""
        return len(self.digests)

    def shards_of(self, share: tuple[int, int]) -> range:
        """Return the shards of a share (i, n) of the work: every n-th, from shard i - 1 on."""
        return range(self.num_shards)[share[0] - 1 :: share[1]]

    def clips_of(self, shard: int) -> range:
        """Return the indices of a shard's clips in the list."""
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, self.num_clips))

    @property
    def recorded_options(self) -> dict[str, Any]:
        """Options as stored in corpus.json."""
        return {
            **self.options,
            "clips_per_shard": self.clips_per_shard,
            "listed_clips": self.num_clips,
            "list_sha256": _digest(self.digests),
        }


def make_plan(
    listing: Listing,
    sources: Sequence[str],
    options: PackingOptions,
    *,
    num_workers: int,
    folder: Path | None = None,
) -> PackingPlan:
    """Make the plan for a listing of sources.

    The number of clips per shard is that of the corpus in `folder`, if one was begun there; else
    it follows from the headers of some clips, read in `num_workers` processes.

    Raises:
        CorpusError: If the plan or corpus in the folder cannot be read.
        WorkerError: If no process can be started.
    """
    mean_seconds, clips_per_shard = _sizes_before(folder) if folder else (0.0, 0)
    if not clips_per_shard:
        mean_seconds = _measure_mean(listing.clips, options, num_workers)
        clips_per_megabyte = 1e6 / (mean_seconds * SAMPLE_RATE * 2)
        clips_per_shard = max(round(options.shard_megabytes * clips_per_megabyte), 1)
    missing = "no such file, but a list or manifest names it"
    same = [(dropped, f"same clip as {kept}") for kept, dropped in listing.duplicates]
    return PackingPlan(
        options=options.record(sources),
        num_clips=len(listing.clips),
        clips_per_shard=clips_per_shard,
        mean_seconds=mean_seconds,
        digests=digest_shards(map(_row, listing.clips), clips_per_shard),
        rejected=[*((each, missing) for each in listing.missing), *listing.damaged, *same],
        num_duplicates=len(same),
    )


def digest_shards(rows: Iterable[str], clips_per_shard: int) -> list[str]:
    """Compute the SHA-256 of each shard's part of a list with one line per clip."""
    digests: list[str] = []
    rows = iter(rows)
    while shard := list(itertools.islice(rows, clips_per_shard)):
        digests.append(_digest(shard))
    return digests


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_plan(folder: Path) -> PackingPlan | None:
    """Read the plan of a corpus that is being packed; None if there is none.

    Raises:
        CorpusError: If it cannot be read.
    """
    path = folder / PARTS / "plan.json"
    try:
        values = read_json(path, _SHAPE)
        values["rejected"] = [(source, reason) for source, reason in values["rejected"]]
        plan = PackingPlan(**values)
        if plan.clips_per_shard < 1 or not plan.mean_seconds > 0:
            raise ValueError("clips_per_shard must be at least 1, and mean_seconds above 0")
        return plan
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: cannot be read ({error}). Remove {folder} to begin anew"
        raise CorpusError(message, code="damaged", path=path) from error


def fix_plan(folder: Path, plan: PackingPlan) -> None:
    """Create the folder and write the plan, or check that the existing one is equal.

    Raises:
        CorpusError: If it differs; the message lists the differences.
        OSError: If it cannot be written.
    """
    # If several machines begin at the same time, only one writes it.
    path = open_parts(folder) / "plan.json"
    replace_file(path, json.dumps(asdict(plan)), may_replace=False)
    check_same_plan(folder, plan)


def check_same_plan(folder: Path, plan: PackingPlan) -> None:
    """Compare a plan with the one in the folder, if there is one.

    Raises:
        CorpusError: If they differ; the message lists the differences.
    """
    begun = read_plan(folder)
    if begun is not None and (found := compare_plans(begun, plan)):
        raise CorpusError(
            f"{folder}: was begun with other options or sources ({'; '.join(found.values())}). "
            "Give those again, choose another folder, or remove this one",
            code="different",
            path=folder,
            key=next(iter(found)),
            value=found,
        )


def compare_plans(begun: PackingPlan, now: PackingPlan) -> dict[str, str]:
    """Describe the differences of two plans by key; for lists of clips, the first one."""
    found = differences(begun.options, now.options)
    if begun.num_clips != now.num_clips:
        found["clips"] = f"{begun.num_clips} clips were listed, {now.num_clips} are now"
    if found or begun == now:
        return found
    pairs = zip(begun.digests, now.digests, strict=False)
    shard = next((number for number, (was, is_) in enumerate(pairs) if was != is_), None)
    if shard is None:
        return {"files": "the listing leaves out other files than it did"}
    places = begun.clips_of(shard)
    return {"clips": f"other clips are listed: the first among clips {places[0]} to {places[-1]}"}


def _sizes_before(folder: Path) -> tuple[float, int]:
    """Read mean length and clips per shard of an existing or begun corpus; zeros for a new one."""
    if (folder / "corpus.json").exists():
        clips_per_shard = read_info(folder)["options"].get("clips_per_shard")
        return 0.0, clips_per_shard if isinstance(clips_per_shard, int) else 0
    begun = read_plan(folder)
    return (begun.mean_seconds, begun.clips_per_shard) if begun else (0.0, 0)


def _measure_mean(clips: Sequence[ClipSource], options: PackingOptions, num_workers: int) -> float:
    """Measure the mean length of clips spread evenly over the list; rejected ones count 0 s."""
    num_measured = min(_MEASURED_CLIPS, len(clips))
    places = [i * len(clips) // num_measured for i in range(num_measured)]
    lengths = measure_lengths(
        jobs_of([clips[place] for place in places]),
        options.rules,
        num_workers=min(num_workers, num_measured),
        limits=options.limits,
    )
    return sum(lengths) / num_measured or _USUAL_SECONDS


def _row(clip: ClipSource) -> str:
    """Format a clip as a line that identifies it."""
    place = (clip.offset, clip.size, clip.row, clip.start_seconds, clip.num_seconds)
    return f"{clip.clip_id}\t{clip}\t{place}\t{clip.may_be_cut}\t{clip.labels}"
