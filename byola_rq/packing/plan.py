"""What a packed corpus will be, fixed before its first shard for every process at work on it."""

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

_MEASURED_CLIPS = 64  # whose headers tell how many clips fill a shard
_USUAL_SECONDS = 10.0  # of a clip, where no header does
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


@dataclass(frozen=True, kw_only=True)
class PackingPlan:
    """What the whole corpus will be; the same on every machine at work on it.

    Args:
        options: All that decides the result, as JSON values.
        num_clips: Listed clips.
        clips_per_shard: Shard k is made of the clips k * this to (k + 1) * this - 1.
        mean_seconds: Length of a clip, as some headers say.
        digests: SHA-256 of each shard's part of the list.
        rejected: (source, reason) of what the listing itself left out.
        num_duplicates: How many of these are clips that came twice.
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
        """Shards of the whole corpus."""
        return len(self.digests)

    def shards_of(self, share: tuple[int, int]) -> range:
        """The shards of a share (i, n) of the work: every n-th, beginning with shard i - 1."""
        return range(self.num_shards)[share[0] - 1 :: share[1]]

    def clips_of(self, shard: int) -> range:
        """Places in the list of a shard's clips."""
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, self.num_clips))

    @property
    def recorded_options(self) -> dict[str, Any]:
        """What corpus.json keeps of the plan."""
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
    """The plan that follows from a listing of sources.

    A corpus that was begun in `folder` says how many clips a shard has; for a new one the headers
    of some clips do, read in `num_workers` processes.

    Raises:
        CorpusError: If what the folder holds cannot be read.
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
    """SHA-256 of each shard's part of a list of one line a clip."""
    digests: list[str] = []
    rows = iter(rows)
    while shard := list(itertools.islice(rows, clips_per_shard)):
        digests.append(_digest(shard))
    return digests


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_plan(folder: Path) -> PackingPlan | None:
    """The plan of a corpus that is not whole yet; None where there is none.

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
    """Make the folder and write the plan, or find that the one in it is the same.

    Raises:
        CorpusError: If it is another; says what differs.
        OSError: If something cannot be written.
    """
    # Of machines that begin at the same moment, one writes it.
    path = open_parts(folder) / "plan.json"
    replace_file(path, json.dumps(asdict(plan)), may_replace=False)
    refuse_other_plan(folder, plan)


def refuse_other_plan(folder: Path, plan: PackingPlan) -> None:
    """Compare a plan with the one in the folder, where there is one.

    Raises:
        CorpusError: If they differ; says in what.
    """
    begun = read_plan(folder)
    if begun is not None and (differences := compare_plans(begun, plan)):
        raise CorpusError(
            f"{folder}: was begun with other options or sources "
            f"({'; '.join(differences.values())}). Give those again, "
            "choose another folder, or remove this one",
            code="different",
            path=folder,
            key=next(iter(differences)),
            value=differences,
        )


def compare_plans(begun: PackingPlan, now: PackingPlan) -> dict[str, str]:
    """What differs between two plans, with a few words each; of the list, where it first does."""
    differences = compare_options(begun.options, now.options)
    if begun.num_clips != now.num_clips:
        differences["clips"] = f"{begun.num_clips} clips were listed, {now.num_clips} are now"
    if differences or begun == now:
        return differences
    pairs = zip(begun.digests, now.digests, strict=False)
    shard = next((number for number, (was, is_) in enumerate(pairs) if was != is_), None)
    if shard is None:
        return {"files": "the listing leaves out other files than it did"}
    places = begun.clips_of(shard)
    return {"clips": f"other clips are listed: the first among clips {places[0]} to {places[-1]}"}


def compare_options(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Which options differ, with `name was x, is y`."""
    return {
        name: f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }


def _sizes_before(folder: Path) -> tuple[float, int]:
    """Mean length and clips a shard of a corpus that is there or was begun; zeros for a new one."""
    if (folder / "corpus.json").exists():
        clips_per_shard = read_info(folder)["options"].get("clips_per_shard")
        return 0.0, clips_per_shard if isinstance(clips_per_shard, int) else 0
    begun = read_plan(folder)
    return (begun.mean_seconds, begun.clips_per_shard) if begun else (0.0, 0)


def _measure_mean(clips: Sequence[ClipSource], options: PackingOptions, num_workers: int) -> float:
    """Mean length of clips spread evenly over the list, those that cannot be packed as 0 s."""
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
    """A clip as a line that tells it from every other."""
    place = (clip.offset, clip.size, clip.row, clip.start_seconds, clip.num_seconds)
    return f"{clip.clip_id}\t{clip}\t{place}\t{clip.may_be_cut}\t{clip.labels}"
