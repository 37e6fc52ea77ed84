"""Listing of an embedding job's clips, checked by their headers."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from byola_rq.audio.encoded import reason_of, unreadable
from byola_rq.corpus.decoded_clips import DecodedClips, measure_each
from byola_rq.corpus.segments import check_faults, list_with_faults
from byola_rq.embed.clip_encoder import ClipEncoder
from byola_rq.errors import AudioError, CorpusError
from byola_rq.runtime import distributed as ranks
from byola_rq.runtime.progress import ProgressBar, log
from byola_rq.sources.clip_source import ClipSource, Listing, path_resolver
from byola_rq.text.shown import printable

Rejected = tuple[str, str]  # (source, reason)


@dataclass(frozen=True)
class JobClips:
    """Clips of an embedding job.

    Args:
        clips: Clips in the order of the sources, each as often as they name it.
        identities: Line for each clip: its real file and position in it, size, modification time.
        rejected: Pairs (source, reason) of clips that are left out.
    """

    clips: DecodedClips
    identities: Sequence[str]
    rejected: list[Rejected]


def list_clips(sources: Sequence[Path], encoder: ClipEncoder, *, strict: bool) -> JobClips:
    """List the clips of `sources` and read their headers.

    Each rank opens its share of the files: with millions on a shared disk, opening dominates.

    Raises:
        AudioError, CorpusError: If a source cannot be used, or no clip can be; with `strict`, if
            one clip cannot.
    """
    with ranks.raise_on_all_ranks():
        listing, faults = list_with_faults(sources, keep_repeats=True)
        if strict or not listing.clips:
            check_faults(sources, faults)
    for note in _notes(listing):
        log(note)
    found = listing.clips
    _check_same_listing(found)
    own = found[ranks.rank() :: ranks.world_size()]
    facts = np.zeros((-(-len(found) // ranks.world_size()), 4), np.int64)
    with ranks.raise_on_all_ranks():
        errors = _measure(own, encoder, facts)
        if strict and errors:
            raise _first_of(errors)
    # Only the reasons are exchanged between ranks.
    reasons = [
        [place, reason_of(error, own[place], own[place].file)] for place, error in errors.items()
    ]
    rejected = [(fault.source, fault.reason) for fault in faults]
    for rank, of_rank in enumerate(ranks.all_gather_json(reasons)):
        rejected += [(str(found[p * ranks.world_size() + rank]), reason) for p, reason in of_rank]
    by_rank = ranks.all_gather_rows(torch.from_numpy(facts)).numpy().reshape(-1, *facts.shape)
    facts = by_rank.swapaxes(0, 1).reshape(-1, 4)[: len(found)]
    kept = np.flatnonzero(facts[:, 1])
    with ranks.raise_on_all_ranks():
        if not len(kept):
            raise _first_of(errors)
    facts, clips = facts[kept], [found[place] for place in kept]
    identities = [
        f"{place}\t{size}\t{time}"
        for place, (size, time) in zip(
            _places(clips, listing.links), facts[:, 2:].tolist(), strict=True
        )
    ]
    decoded = DecodedClips(clips, facts[:, 0], facts[:, 1], encoder.frontend.sample_rate)
    return JobClips(decoded, identities, rejected)


def _notes(listing: Listing) -> Iterator[str]:
    yield from listing.notes
    if listing.duplicates:
        kept, dropped = listing.duplicates[0]
        yield f"{len(listing.duplicates)} reached twice and read once, such as {dropped} ({kept})"


def _measure(
    own: Sequence[ClipSource], encoder: ClipEncoder, facts: np.ndarray
) -> dict[int, AudioError]:
    """Fill `facts` with first sample, length, size and time per clip; return errors by index."""
    with ProgressBar("reading headers", len(own)) as bar:
        clips, unreadable = measure_each(own, encoder.frontend.sample_rate, bar.advance)
    error_of = {id(source): error for source, error in unreadable}
    errors: dict[int, AudioError] = {}
    row = 0
    for place, source in enumerate(own):
        try:
            if error := error_of.get(id(source)):
                raise error
            length = int(clips.num_samples[row])
            first = int(clips.first_samples[row])
            row += 1
            encoder.check_length(length, source)
            facts[place] = first, length, *_size_and_time(source)
        except AudioError as error:
            errors[place] = error
    return errors


def _first_of(errors: Mapping[int, AudioError]) -> AudioError:
    """Return the first error with the number of the others."""
    error = next(iter(errors.values()))
    others = f" (and {len(errors) - 1} more clips like it)" if len(errors) > 1 else ""
    return AudioError(f"{error}{others}", **error.facts)


def _check_same_listing(found: Sequence[ClipSource]) -> None:
    """Check that all ranks list the same clips: they may run on machines with other folders."""
    if ranks.world_size() == 1:
        return
    digest = hashlib.sha256()
    for source in found:
        digest.update(f"{source}\n".encode())
    listings = ranks.all_gather_json([len(found), digest.hexdigest()])
    with ranks.raise_on_all_ranks():
        if listings[ranks.rank()] != listings[0]:
            raise CorpusError(
                f"all ranks must find the same clips; got {len(found)}, rank 0 {listings[0][0]} "
                "(or others). Do not add or remove files, and give every machine the same folders",
                code="different",
                value=len(found),
            )


def _size_and_time(source: ClipSource) -> tuple[int, int]:
    try:
        status = source.path.stat()
    except OSError as error:
        raise unreadable(source, error) from error
    return status.st_size, status.st_mtime_ns


def _places(clips: Sequence[ClipSource], links: Mapping[str, str]) -> Iterator[str]:
    """Format each clip's real file and position in it, independent of links in its path."""
    real_path = path_resolver(links)
    for clip in clips:
        place = f"{clip.offset}\t{clip.start_seconds}\t{clip.num_seconds}"
        yield f"{printable(real_path(clip.file))}\t{place}"
