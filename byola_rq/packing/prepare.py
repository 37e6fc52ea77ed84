"""Packing of any audio collection into a corpus."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.corpus.packed_format import find_damage, read_info
from byola_rq.errors import CorpusError
from byola_rq.packing.merge import merge_shards
from byola_rq.packing.pack import pack_shards
from byola_rq.packing.plan import (
    PackingOptions,
    PackingPlan,
    check_same_plan,
    make_plan,
    read_plan,
)
from byola_rq.packing.shards import PARTS, PackingError, read_summary, remove_parts
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.signals import StoppedError, stop_on_signals
from byola_rq.runtime.terminal import warn
from byola_rq.sources.clip_source import ClipSource, Listing
from byola_rq.sources.listing import list_sources
from byola_rq.text.shown import differences

_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class PackingOutcome:
    """Amounts packed, in the whole corpus or in a share of the work."""

    clips: int
    hours: float
    rejected: int
    duplicates: int = 0


def prepare_corpus(
    sources: Sequence[str],
    folder: Path,
    options: PackingOptions,
    *,
    num_workers: int,
    share: tuple[int, int] | None = None,
) -> PackingOutcome:
    """Pack every clip of the sources; another call after an interruption resumes.

    The list of clips is divided into shards of a fixed number of clips. Each shard is written
    atomically and never repeated, so the result has the same bytes however often the work was
    interrupted and over however many processes and machines it was spread.

    Args:
        sources: Sources in the forms of `list_sources`.
        folder: Folder of the corpus: new, empty, or left by an earlier call for the same corpus.
        options: Options, the same for all calls that pack this corpus.
        num_workers: Number of decoding processes.
        share: (i, n): pack only every n-th shard, beginning with shard i - 1; `merge_corpus` then
            joins them. None: pack and join all.

    Raises:
        CorpusError: If a source or the folder cannot be used.
        PackingError: If the disk is full or cannot be written.
        StoppedError: If Ctrl-C or SIGTERM stopped it.
    """
    _check_folder(folder, sources)
    try:
        with stop_on_signals():
            listing = _list_clips(sources, options)
            plan = make_plan(listing, sources, options, num_workers=num_workers, folder=folder)
            if (folder / "corpus.json").exists():
                return _compare_with_whole(folder, plan)
            check_same_plan(folder, plan)
            with _disk_errors(folder):
                pack_shards(
                    listing.clips,
                    folder,
                    plan,
                    rules=options.rules,
                    limits=options.limits,
                    share=share or (1, 1),
                    num_workers=num_workers,
                )
                if share is None:
                    return _outcome(merge_shards(folder, plan))
            return _outcome_of_share(folder, plan, share)
    except StoppedError as error:
        raise StoppedError(
            f"{folder}: {error}; {_what_is_kept(folder)}", error.number, path=folder
        ) from None


def merge_corpus(folder: Path) -> PackingOutcome:
    """Join the shards packed by shares of the work.

    Raises:
        CorpusError: If shards are missing, or nothing was packed in the folder.
        PackingError: If the disk is full or cannot be written.
    """
    if (folder / "corpus.json").exists():
        info = read_info(folder)
        remove_parts(folder)
        return _outcome(info)
    plan = read_plan(folder)
    if plan is None:
        message = f"{folder}: nothing to merge; no packing was begun there"
        raise CorpusError(message, code="missing", path=folder)
    with _disk_errors(folder):
        return _outcome(merge_shards(folder, plan))


def verify_corpus(folder: Path) -> tuple[int, list[str]]:
    """Verify the digests of a packed corpus, with a progress bar.

    Returns:
        Number of files, and a line for each damaged one.

    Raises:
        CorpusError: If there is none, or it has another format version.
    """
    files = read_info(folder)["files"]
    num_bytes = sum(each["bytes"] for each in files.values())
    num_read = 0
    with ProgressBar("verifying MB", num_bytes // 1_000_000) as bar:

        def on_bytes(num: int) -> None:
            nonlocal num_read
            num_read += num
            bar.advance(num_read // 1_000_000 - bar.done)

        return len(files), list(find_damage(folder, on_bytes))


def describe_work(
    sources: Sequence[str], folder: Path, options: PackingOptions, *, num_workers: int
) -> list[str]:
    """Describe in lines what packing would do, without writing anything.

    Raises:
        CorpusError: As `prepare_corpus`.
    """
    _check_folder(folder, sources)
    with stop_on_signals():
        listing = _list_clips(sources, options)
        plan = make_plan(listing, sources, options, num_workers=num_workers)
    forms = Counter(_form(clip) for clip in listing.clips)
    return [
        *(f"{source}: {found} clips found" for source, found in listing.found),
        f"clips: {plan.num_clips} ({', '.join(f'{n} {form}' for form, n in forms.items())})",
        f"left out already: {len(listing.missing)} missing, {len(listing.damaged)} damaged, "
        f"{len(listing.duplicates)} duplicates",
        f"shards: {plan.num_shards} of {plan.clips_per_shard} clips",
    ]


def _list_clips(sources: Sequence[str], options: PackingOptions) -> Listing:
    """List the sources' clips, up to `options.limit`, and print the listing's notes on stderr."""
    found = 0
    last_line = time.monotonic()

    def on_clip() -> None:
        nonlocal found, last_line
        found += 1
        if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            warn(f"listing clips: {found} so far")

    listing = list_sources(sources, on_clip=on_clip)
    for note in listing.notes:
        warn(note)
    if options.limit is not None:
        del listing.clips[options.limit :]
    return listing


def _check_folder(folder: Path, sources: Sequence[str]) -> None:
    if folder.exists() and not folder.is_dir():
        message = f"{folder}: must be a folder; this is a file"
        raise CorpusError(message, code="foreign", path=folder)
    for source in sources:
        parts = source.split("=")  # `LIST=FOLDER` is one of the forms of a source
        for place in ("=".join(parts[first:]) for first in range(len(parts))):
            if os.path.isdir(place) and folder.resolve().is_relative_to(Path(place).resolve()):
                message = (
                    f"{folder}: must lie outside of the source {place}; packed, it would be part "
                    "of what is packed"
                )
                raise CorpusError(message, code="usage", path=folder, value=place)
    if (folder / "corpus.json").exists():
        read_info(folder)
    elif folder.exists() and not (folder / PARTS).is_dir() and (other := os.listdir(folder)):
        message = (
            f"{folder}: must be new, empty or a corpus that `prepare` has begun; "
            f"it holds {min(other)}" + (f" and {len(other) - 1} more" if len(other) > 1 else "")
        )
        raise CorpusError(message, code="exists", path=folder, value=min(other))


def _form(clip: ClipSource) -> str:
    if clip.row >= 0:
        return "rows of tables"
    return "members of tars" if clip.offset >= 0 else "files"


def _compare_with_whole(folder: Path, plan: PackingPlan) -> PackingOutcome:
    """Return the outcome of a complete corpus after checking that it is the same."""
    info = read_info(folder)
    recorded = {name: info["options"].get(name) for name in plan.recorded_options}
    # Other library versions may change samples in the last bit; the corpus stays usable.
    now = {**plan.recorded_options, "versions": recorded["versions"]}
    if found := differences(recorded, now):
        raise CorpusError(
            f"{folder}: holds a corpus of other options or sources ({'; '.join(found.values())}). "
            "Choose another folder",
            code="different",
            path=folder,
            key=next(iter(found)),
            value=found,
        )
    remove_parts(folder)
    warn(f"{folder}: is packed already")
    return _outcome(info)


def _outcome(info: dict[str, Any]) -> PackingOutcome:
    return PackingOutcome(info["clips"], info["hours"], info["rejected"], info["duplicates"])


def _outcome_of_share(folder: Path, plan: PackingPlan, share: tuple[int, int]) -> PackingOutcome:
    summaries = [read_summary(folder, shard) for shard in plan.shards_of(share)]
    whole = [summary for summary in summaries if summary is not None]
    return PackingOutcome(
        clips=sum(summary.clips for summary in whole),
        hours=sum(summary.num_samples for summary in whole) / SAMPLE_RATE / 3600,
        rejected=sum(summary.rejected for summary in whole),
    )


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{folder}: cannot be written: {error.strerror or error}; {_what_is_kept(folder)}"
        raise PackingError(message, code="unwritable", path=folder) from error


def _what_is_kept(folder: Path) -> str:
    plan = read_plan(folder)
    if plan is None:
        return "nothing was packed yet"
    num_whole = sum(read_summary(folder, shard) is not None for shard in range(plan.num_shards))
    return f"{num_whole} of {plan.num_shards} shards are complete; the same command resumes"
