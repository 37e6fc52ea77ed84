"""What a packed corpus will be, fixed before its first shard for every process at work on it."""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from byola_rq.errors import CorpusError
from byola_rq.packed import SAMPLE_RATE
from byola_rq.shards import PARTS, write_whole


@dataclass(frozen=True)
class Plan:
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

    @property
    def bytes_per_clip(self) -> float:
        """Mean size of a clip's samples."""
        return self.mean_seconds * SAMPLE_RATE * 2

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
        list_sha256 = hashlib.sha256("\n".join(self.digests).encode()).hexdigest()
        return {
            **self.options,
            "clips_per_shard": self.clips_per_shard,
            "listed_clips": self.num_clips,
            "list_sha256": list_sha256,
        }


def digest_shards(rows: Iterable[str], clips_per_shard: int) -> list[str]:
    """SHA-256 of each shard's part of a list of one line a clip."""
    digests: list[str] = []
    rows = iter(rows)
    while shard := list(itertools.islice(rows, clips_per_shard)):
        digests.append(hashlib.sha256("\n".join(shard).encode()).hexdigest())
    return digests


def read_plan(folder: Path) -> Plan | None:
    """The plan of a corpus that is not whole yet; None where there is none.

    Raises:
        CorpusError: If it cannot be read.
    """
    path = folder / PARTS / "plan.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["rejected"] = [(source, reason) for source, reason in values["rejected"]]
        return Plan(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path}: cannot be read ({error}). Remove {folder} to begin anew"
        ) from error


def fix_plan(folder: Path, plan: Plan) -> None:
    """Make the folder and write the plan, or find that the one in it is the same.

    Raises:
        CorpusError: If it is another; says what differs.
        OSError: If something cannot be written.
    """
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    # Of machines that begin at the same moment, one writes it.
    path = folder / PARTS / "plan.json"
    write_whole(folder, path, json.dumps(asdict(plan)), may_replace=False)
    refuse_other_plan(folder, plan)


def refuse_other_plan(folder: Path, plan: Plan) -> None:
    """Compare a plan with the one in the folder, where there is one.

    Raises:
        CorpusError: If they differ; says in what.
    """
    begun = read_plan(folder)
    if begun is not None and (differences := compare_plans(begun, plan)):
        raise CorpusError(
            f"{folder}: was begun with other options or sources ({'; '.join(differences)}). "
            "Give those again, choose another folder, or remove this one"
        )


def compare_plans(begun: Plan, now: Plan) -> list[str]:
    """What differs between two plans, a few words each; of the list, where it first does."""
    differences = compare_options(begun.options, now.options)
    if begun.num_clips != now.num_clips:
        differences.append(f"{begun.num_clips} clips were listed, {now.num_clips} are now")
    if differences or begun == now:
        return differences
    pairs = zip(begun.digests, now.digests, strict=False)
    shard = next((number for number, (was, is_) in enumerate(pairs) if was != is_), None)
    if shard is None:
        return ["the listing leaves out other files than it did"]
    places = begun.clips_of(shard)
    return [f"other clips are listed: the first among clips {places[0]} to {places[-1]}"]


def compare_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which options differ, `name was x, is y`."""
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
