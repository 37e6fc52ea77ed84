"""Deduplication of clips, and unique ids for different clips."""

import hashlib
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from byola_rq.audio.io import EncodedAudio
from byola_rq.errors import AudioError
from byola_rq.sources.clip_source import ClipSource, Listing, path_resolver
from byola_rq.sources.encoded import iterate_encoded
from byola_rq.text.parse import open_file

_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class SourceSpan:
    """Range of one source's clips in a listing; its last clip is `stop` - 1."""

    stop: int
    is_segment_list: bool


def settle_duplicates(listing: Listing, spans: Sequence[SourceSpan]) -> None:
    """Drop repeated clips, and give different clips with one id different ids.

    The first clip in the order of the sources is kept. A later one is a duplicate and dropped if

    - it is the same file, links followed (in archives the same member or row, with the same part);
    - both have one id and come from segment lists, whose ids are a recording and a time;
    - both have one id and their encoded bytes are equal.

    A later clip that differs from an earlier one with the same id gets the number of its source,
    from 1, before its id (`2/0001.wav`). If that id is taken as well, it is reported as damaged.

    Args:
        listing: Listing whose clips, duplicates, damaged and notes are changed in place.
        spans: Ranges of the sources, in the order of the clips.
    """
    clips = listing.clips
    identity = _identities(listing.links)
    same_as: dict[int, int] = {}  # index of a clip to drop -> index of the clip it repeats
    for group in _equal_groups(len(clips), lambda index: identity(clips[index])):
        same_as.update((index, group[0]) for index in group[1:])
    namesakes = [
        kept
        for group in _equal_groups(len(clips), lambda index: clips[index].clip_id)
        if len(kept := [index for index in group if index not in same_as]) > 1
    ]
    stops = [span.stop for span in spans]
    for group in namesakes:
        from_lists = [i for i in group if spans[bisect_right(stops, i)].is_segment_list]
        same_as.update((index, from_lists[0]) for index in from_lists[1:])
    same_as.update(_equal_contents(clips, namesakes, same_as))
    listing.duplicates.extend(
        (str(clips[kept]), str(clips[index])) for index, kept in sorted(same_as.items())
    )
    others = [i for group in namesakes for i in [j for j in group if j not in same_as][1:]]
    nameless = _number_ids(listing, sorted(others), stops)
    if same_as or nameless:
        clips[:] = [clip for i, clip in enumerate(clips) if i not in same_as and i not in nameless]


def _number_ids(listing: Listing, indices: Sequence[int], stops: Sequence[int]) -> set[int]:
    """Prefix ids of clips with the number of their source; return the clips whose id is taken."""
    clips = listing.clips
    nameless: set[int] = set()
    taken = {clip.clip_id for clip in clips} if indices else set()
    for index in indices:
        clip = clips[index]
        new_id = f"{bisect_right(stops, index) + 1}/{clip.clip_id}"
        if new_id in taken:
            nameless.add(index)
            reason = f"ids must be unique; other clips are {clip.clip_id} and {new_id}"
            listing.damaged.append((str(clip), reason))
        else:
            taken.add(new_id)
            clips[index] = replace(clip, clip_id=new_id)
    if numbered := [index for index in indices if index not in nameless]:
        listing.notes.append(
            f"{len(numbered)} clips have the id of another; the number of their source is put "
            f"before it, as in {clips[numbered[0]].clip_id}"
        )
    return nameless


def _identities(links: dict[str, str]) -> Callable[[ClipSource], Hashable]:
    """Return a key function: equal keys are the same part of the same real file."""
    real_path = path_resolver(links)

    def identity(clip: ClipSource) -> Hashable:
        # A clip that may be the cut segment usually is: the whole file.
        part = (0.0, -1.0) if clip.may_be_cut else (clip.start_seconds, clip.num_seconds)
        return real_path(clip.file), clip.offset, clip.row, part

    return identity


def _equal_groups(num_items: int, key: Callable[[int], Hashable]) -> list[list[int]]:
    """Group the indices of items that share their key with another, in ascending order.

    Only hashes of all keys are kept, 8 bytes each; keys are compared where hashes agree.
    """
    hashes = np.fromiter((hash(key(index)) for index in range(num_items)), np.int64, num_items)
    order = np.argsort(hashes, kind="stable")
    is_like_last = np.zeros(num_items + 1, dtype=bool)
    is_like_last[1:num_items] = hashes[order[1:]] == hashes[order[:-1]]
    # Hashes differ from run to run; the order of the result must not.
    in_question = np.sort(order[is_like_last[:-1] | is_like_last[1:]])
    groups: dict[Hashable, list[int]] = {}
    for index in in_question.tolist():
        groups.setdefault(key(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _equal_contents(
    clips: Sequence[ClipSource], namesakes: Sequence[Sequence[int]], same_as: Mapping[int, int]
) -> dict[int, int]:
    """Map clips to an earlier clip with the same id and the same bytes.

    Size and 4 KiB in the middle are compared first; whole clips are read only if both agree.
    Folds whose files have the same names and lengths are common.
    """
    alike: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, group in enumerate(namesakes):
        for index in group:
            # The id of a row without a name is only its number.
            is_nameless = clips[index].row >= 0 and not clips[index].name
            if index not in same_as and not is_nameless:
                alike[number, *_first_look(clips[index])].append(index)
    to_read = sorted(index for group in alike.values() if len(group) > 1 for index in group)
    content_of: dict[int, Hashable] = {}
    for index, encoded in zip(to_read, iterate_encoded([clips[i] for i in to_read]), strict=True):
        content_of[index] = _digest(encoded) or index
    equal: dict[int, int] = {}
    for group in alike.values():
        first_with: dict[Hashable, int] = {}
        for index in group if len(group) > 1 else ():
            first = first_with.setdefault(content_of[index], index)
            if first != index:
                equal[index] = first
    return equal


def _first_look(clip: ClipSource) -> tuple[Hashable, ...]:
    part = clip.start_seconds, clip.num_seconds
    if clip.row >= 0:
        return part
    try:
        with open_file(clip.file) as file:
            first = max(clip.offset, 0)
            size = clip.size if clip.offset >= 0 else os.fstat(file.fileno()).st_size
            middle = os.pread(file.fileno(), _SAMPLE_BYTES, first + size // 2)
    except OSError:
        return (*part, clip.file)
    return (*part, size, hash(middle))


def _digest(encoded: Path | EncodedAudio | AudioError) -> bytes | None:
    """Digest of the content; None if it cannot be read: decoding reports why."""
    if isinstance(encoded, EncodedAudio):
        return hashlib.sha256(encoded.data).digest()
    if isinstance(encoded, AudioError):
        return None
    try:
        with open_file(encoded) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
