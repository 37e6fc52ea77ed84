"""Listing of sources of any kind as one ordered list of clips.

A source is one of

- a folder: its audio files, tars and Parquet files, at any depth, hidden ones skipped
- one audio file (of any name; its bytes identify it), plain tar (WebDataset shard), or Parquet
  file of encoded audio (a column of structs with `bytes` and `path`)
- a manifest: a .csv, .tsv or .parquet file with a column `path`, or fairseq's .tsv
- `LIST=SOURCE`: AudioSet's segment list joined to a source of the kinds above, for example
  `eval_segments.csv=/data/audioset/eval`. The separator is `=` since colons occur in many paths; an
  existing path is used as a path even if it contains `=`.

A clip's id does not depend on the location of its source:

- a file's path relative to the folder (`dog/1.wav`); for a single file, its name
- a manifest's `clip_id` column, else the path relative to the manifest's folder (or, if files are
  elsewhere, to the deepest folder that holds them all), with `@start-end` for a part
- `shard-000/member.flac` and `table-000/name.flac` in archives, with the archive's own path
  relative to the folder before it
- `YTID_milliseconds` in AudioSet's lists, independent of the file's name

If different clips have one id, the first keeps it and later ones are prefixed with the number of
their source (`2/dog/1.wav`). `byola_rq.sources.duplicates` has the rules, also for duplicates.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from byola_rq.audio.io import AUDIO_SUFFIXES
from byola_rq.audio.opening import codec_of
from byola_rq.errors import AudioError, Code, CorpusError
from byola_rq.sources.audioset import SegmentList, is_segment_list, join_segments
from byola_rq.sources.clip_source import ClipSource, Listing
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
from byola_rq.text.shown import printable

__all__ = ["ClipSource", "Listing", "iterate_encoded", "list_sources", "read_encoded"]


def list_sources(
    sources: Sequence[Path | str],
    *,
    on_clip: Callable[[], object] = lambda: None,
    keep_repeats: bool = False,
) -> Listing:
    """List every clip of `sources`, without opening an audio file.

    Clips are in the order of the sources; in a folder by name, in an archive or manifest in its
    own order. The result is the same on every machine and file system.

    Args:
        sources: Sources in the forms that this module's docstring describes.
        on_clip: Called once for each clip found.
        keep_repeats: List a clip as often as it is named; ids are then not made unique.

    Returns:
        Clips with unique ids, and reports about what was left out.

    Raises:
        CorpusError: If a source does not exist, has no known form or holds no audio, or if there
            is no clip at all. A damaged archive among others is reported in the listing instead.
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
            f"{where}: {reason}{others}; no other clip was found", code="damaged", path=sources[0]
        )
    if not keep_repeats:
        settle_duplicates(listing, spans)
    return listing


def _counted(clips: Iterator[ClipSource], on_clip: Callable[[], object]) -> Iterator[ClipSource]:
    for clip in clips:
        on_clip()
        yield clip


def _list_and_folder(source: str) -> tuple[str, str] | None:
    """Split `LIST=SOURCE`; None for an existing path or a source without `=`."""
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
    """Find the clips of a source without `=`."""
    suffix = os.path.splitext(source)[1].lower()
    if os.path.isdir(source):
        yield from _find_in_folder(source, listing)
        return
    if not os.path.isfile(source):
        is_there = os.path.exists(source)
        reason = "must be a file; got a device or pipe" if is_there else "no such file or folder"
        code: Code = "unreadable" if is_there else "missing"
        raise CorpusError(f"{source}: {reason}", code=code, path=source)
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
    """Return whether a file given as a source is audio despite its suffix."""
    if suffix in {TAR_SUFFIX, PARQUET_SUFFIX, ".csv", ".tsv"}:
        return False
    try:
        return bool(codec_of(Path(source)).name)
    except AudioError as error:
        # Audio without a decoder is then reported by its codec, not as an unknown kind of source.
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
    """Return whether a tar or Parquet file holds audio; True if broken: its listing reports it."""
    if not path.lower().endswith(PARQUET_SUFFIX):
        return True
    try:
        return describe_table(path)[0] is not None
    except CorpusError:
        return True
