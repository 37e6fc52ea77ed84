"""Every form in which people have audio -> one ordered list of clips, and their encoded bytes.

A source is one of

- a folder: its audio files, tars and Parquet files, at any depth, hidden ones skipped
- one audio file (of any name: its bytes say what it is), plain tar (WebDataset shard), or Parquet
  file of encoded audio (a column of structs with `bytes` and `path`)
- a manifest: a .csv, .tsv or .parquet file with a column `path`, or fairseq's .tsv
- `LIST=SOURCE`: AudioSet's segment list joined to a source of the kinds above, for example
  `eval_segments.csv=/data/audioset/eval`. An equals sign, since colons stand in many paths; a path
  that is there as it is written is taken as one, whatever it contains.

A clip's id does not depend on where its source lies:

- a file's path relative to the folder (`dog/1.wav`); of a single file, its name
- a manifest's `clip_id` column, else the path relative to the manifest's folder (or, if files lie
  elsewhere, to the deepest folder that holds them all), with `@start-end` for a part
- `shard-000/member.flac` and `table-000/name.flac` in archives, with the archive's own path
  relative to the folder before it
- `YTID_milliseconds` in AudioSet's lists, whatever the file is called

Of different clips with one id, the first keeps it; a later one gets the number of its source before
it (`2/dog/1.wav`). `byola_rq.sources.duplicates` has the rules, also for clips that come twice.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from byola_rq.audio.io import AUDIO_SUFFIXES
from byola_rq.audio.opening import codec_of
from byola_rq.errors import AudioError, CorpusError
from byola_rq.sources.audioset import SegmentList, is_segment_list, join_segments
from byola_rq.sources.clip_source import ClipSource, Listing, printable
from byola_rq.sources.duplicates import SourceSpan, settle_duplicates
from byola_rq.sources.encoded import iterate_encoded, read_encoded
from byola_rq.sources.folders import (
    COMPRESSED_SUFFIXES,
    PARQUET_SUFFIX,
    TAR_SUFFIX,
    UNREAD_SUFFIXES,
    compression_advice,
    walk_folder,
)
from byola_rq.sources.manifests import list_manifest
from byola_rq.sources.parquet import describe_table, list_table
from byola_rq.sources.tar import list_tar

__all__ = ["ClipSource", "Listing", "iterate_encoded", "list_sources", "read_encoded"]


def list_sources(
    sources: Sequence[Path | str],
    *,
    on_clip: Callable[[], object] = lambda: None,
    keep_repeats: bool = False,
) -> Listing:
    """List every clip of `sources`, without opening an audio file.

    The order is that of the sources; within a folder that of the names, within an archive or a
    manifest its own. It is the same on every machine and file system.

    Args:
        sources: As this module's docstring says.
        on_clip: Called once for each clip found.
        keep_repeats: List a clip as often as it is named. Ids are then not settled.

    Returns:
        Clips with different ids, and all there is to say about what is not among them.

    Raises:
        CorpusError: If a source does not exist, is of no known form or holds no audio, or if
            there is no clip at all. A damaged archive beside others is in the listing instead.
    """
    if not sources:
        raise CorpusError(
            "no source; name a folder, a manifest, tar or Parquet files, LIST=FOLDER", code="usage"
        )
    listing = Listing()
    spans = []
    for source in map(os.path.expanduser, map(str, sources)):
        first = len(listing.clips)
        num_damaged = len(listing.damaged)
        pair = _list_and_folder(source)
        if pair:
            segments = SegmentList(pair[0], listing)
            clips = _counted(_find_in(pair[1], listing), on_clip)
            listing.clips.extend(join_segments(segments, clips, pair[1], listing))
        else:
            listing.clips.extend(_counted(_find_in(source, listing), on_clip))
        if len(listing.clips) == first and len(listing.damaged) == num_damaged:
            known = ", ".join(sorted({*AUDIO_SUFFIXES, TAR_SUFFIX, PARQUET_SUFFIX}))
            raise CorpusError(
                f"{source}: no audio file in this folder (looked for {known})",
                code="empty",
                path=source,
            )
        listing.found.append((printable(source), len(listing.clips) - first))
        spans.append(SourceSpan(len(listing.clips), is_segment_list=pair is not None))
    if not listing.clips:
        where, reason = listing.damaged[0]
        others = f" (and {len(listing.damaged) - 1} more like it)" * (len(listing.damaged) > 1)
        raise CorpusError(
            f"{where}: {reason}{others}; there is no other clip", code="damaged", path=sources[0]
        )
    if not keep_repeats:
        settle_duplicates(listing, spans)
    return listing


def _counted(clips: Iterator[ClipSource], on_clip: Callable[[], object]) -> Iterator[ClipSource]:
    for clip in clips:
        on_clip()
        yield clip


def _list_and_folder(source: str) -> tuple[str, str] | None:
    """The two parts of `LIST=SOURCE`; a path that is there is no such pair."""
    if os.path.lexists(source):
        return None
    places = [place for place, letter in enumerate(source) if letter == "="]
    for place in places:
        if os.path.isfile(source[:place]):
            return source[:place], os.path.expanduser(source[place + 1 :])
    if places:
        raise CorpusError(
            f"{source}: no such file or folder; of LIST=FOLDER, no such list: "
            f"{source[: places[0]]}",
            code="missing",
            path=source,
        )
    return None


def _find_in(source: str, listing: Listing) -> Iterator[ClipSource]:
    """Clips of a source without `=`."""
    suffix = os.path.splitext(source)[1].lower()
    if os.path.isdir(source):
        yield from _find_in_folder(source, listing)
        return
    if not os.path.isfile(source):
        raise CorpusError(f"{source}: no such file or folder", code="missing", path=source)
    if os.path.islink(source):
        listing.links[source] = os.path.realpath(source)
    if source.lower().endswith(COMPRESSED_SUFFIXES):
        message = f"{source}: {compression_advice(source)}"
        raise CorpusError(message, code="unsupported", path=source)
    if suffix in AUDIO_SUFFIXES or _is_misnamed_audio(source, suffix):
        yield ClipSource(printable(os.path.basename(source)), file=source)
    elif suffix in {TAR_SUFFIX, PARQUET_SUFFIX} and _is_archive(source):
        yield from _find_in_archive(source, printable(Path(source).stem), listing)
    elif suffix == ".csv" and is_segment_list(source):
        raise CorpusError(
            f"{source}: AudioSet's segment list names no files; join it to the folder that holds "
            f"them: {source}=FOLDER",
            code="usage",
            path=source,
        )
    elif suffix in {".csv", ".tsv", PARQUET_SUFFIX}:
        yield from list_manifest(source, listing)
    else:
        raise CorpusError(
            f"{source}: must be a folder, a .csv, .tsv or .parquet manifest, a .tar, a Parquet "
            "file of encoded audio, or an audio file",
            code="foreign",
            path=source,
        )


def _is_misnamed_audio(source: str, suffix: str) -> bool:
    """Whether a file that is named by itself, and does not end as audio does, is audio."""
    if suffix in {TAR_SUFFIX, PARQUET_SUFFIX, ".csv", ".tsv"}:
        return False
    try:
        return bool(codec_of(Path(source)).name)
    except AudioError as error:
        # Sound that no decoder here reads is refused by its codec, not as something foreign.
        return error.code == "unsupported" and suffix in UNREAD_SUFFIXES


def _find_in_folder(folder: str, listing: Listing) -> Iterator[ClipSource]:
    other_tables = []
    for path, relative in walk_folder(folder, listing):
        stem, suffix = os.path.splitext(relative)
        if suffix.lower() not in {TAR_SUFFIX, PARQUET_SUFFIX}:
            yield ClipSource(printable(relative), file=path)
        elif _is_archive(path):
            yield from _find_in_archive(path, printable(stem), listing)
        else:
            other_tables.append(printable(path))
    if other_tables:
        listing.notes.append(
            f"{printable(folder)}: {len(other_tables)} Parquet files without encoded audio are "
            f"not read, like {other_tables[0]}"
        )


def _find_in_archive(path: str, stem: str, listing: Listing) -> Iterator[ClipSource]:
    list_archive = list_table if path.lower().endswith(PARQUET_SUFFIX) else list_tar
    yield from list_archive(path, stem, listing)


def _is_archive(path: str) -> bool:
    """Whether a tar or Parquet file is one of audio; a broken one is, and its listing says so."""
    if not path.lower().endswith(PARQUET_SUFFIX):
        return True
    try:
        return describe_table(path)[0] is not None
    except CorpusError:
        return True
