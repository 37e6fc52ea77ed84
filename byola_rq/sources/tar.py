"""Plain tar shards: audio members as clips with labels from sidecars; nothing is extracted."""

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from byola_rq.audio.io import AUDIO_SUFFIXES, EncodedAudio, audio_error
from byola_rq.errors import AudioError
from byola_rq.sources.clip_source import (
    MAX_ENCODED_BYTES,
    ClipSource,
    Listing,
    clean_name,
    joined_labels,
)
from byola_rq.sources.folders import Unread, is_hidden
from byola_rq.sources.tar_headers import Member, TarDamage, walk_members
from byola_rq.text.parse import open_file
from byola_rq.text.shown import printable

_MAX_SIDECAR_BYTES = 1 << 16
_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_SIDECAR_SUFFIXES = (".cls", ".json", ".txt")  # the first that a sample has gives its labels


def list_tar(path: str, stem: str, listing: Listing) -> Iterator[ClipSource]:
    """List the audio members of a plain tar as clips, up to damage.

    Consecutive members with the same name up to the first dot are a sample: its `.cls`, `.json`
    (`labels` or `label`) or `.txt` gives the labels of all its audio.

    Args:
        path: Path of the tar.
        stem: Prefix of the clips' ids.
        listing: Receives damage.

    Yields:
        Clips in the order of the tar.
    """
    num_clips = 0
    odd_names: list[str] = []
    unread = Unread()
    try:
        with open_file(path) as tar:
            for sample in _samples(_usable_members(tar, path, listing)):
                labels = _labels(tar, sample)
                has_audio = any(_suffix(each.name) in AUDIO_SUFFIXES for each in sample)
                for name, offset, size, _ in sample:
                    if _suffix(name) not in AUDIO_SUFFIXES:
                        if not (has_audio and _suffix(name) in _SIDECAR_SUFFIXES):
                            unread.add(name.rpartition("/")[2])
                        continue
                    clean = clean_name(name)
                    if clean != name.removeprefix("./"):
                        odd_names.append(name)
                    num_clips += 1
                    yield ClipSource(
                        f"{stem}/{clean}",
                        file=path,
                        offset=offset,
                        size=size,
                        name=name,
                        labels=labels,
                    )
        if not num_clips:
            raise TarDamage("no audio member to read in this tar", code="empty")
    except OSError as error:
        listing.damaged.append((printable(path), f"cannot be read ({error.strerror})"))
    except TarDamage as damage:
        listing.damaged.append((printable(path), str(damage)))
    unread.note(path, listing)
    if odd_names:
        listing.notes.append(
            f"{printable(path)}: {len(odd_names)} members with absolute or .. names, like "
            f"{odd_names[0]!r}; nothing is extracted, and their ids omit these parts"
        )


def _usable_members(tar: BinaryIO, path: str, listing: Listing) -> Iterator[Member]:
    """Iterate over files that are not hidden; report audio that is a link or sparse.

    Raises:
        TarDamage: As `walk_members`; if the tar is compressed; if another tar follows it.
    """
    if os.pread(tar.fileno(), 8, 0).startswith(_COMPRESSIONS):
        raise TarDamage(
            "the tar is compressed; unpack the compression, not the tar", code="unsupported"
        )
    for member in walk_members(tar, os.fstat(tar.fileno()).st_size):
        if any(is_hidden(part) for part in clean_name(member.name).split("/")):
            continue
        if member.kind == "file":
            yield member
        elif _suffix(member.name) in AUDIO_SUFFIXES:
            reason = "a link, which has no sound of its own"
            if member.kind == "sparse":
                reason = "a sparse member; make the tar without --sparse"
            listing.damaged.append((f"{printable(path)}::{member.name}", reason))
    end = tar.tell()
    if tar.read(1 << 16).strip(b"\0"):  # a tar ends in zeros, up to a whole record
        raise TarDamage(
            f"the data after the end mark at byte {end} are not read; if tars were concatenated, "
            "give them one by one",
            code="damaged",
            value=end,
        )


def _samples(members: Iterator[Member]) -> Iterator[list[Member]]:
    """Group consecutive members with the same folder and name up to the first dot."""
    for _, group in itertools.groupby(members, _sample_of):
        sample: list[Member] = []
        try:
            for member in group:
                sample.append(member)
        except (TarDamage, OSError):  # after a part of the sample
            yield sample
            raise
        yield sample


def _sample_of(member: Member) -> tuple[str, str]:
    folder, _, name = member.name.rpartition("/")
    return folder, name.split(".", 1)[0]


def _labels(tar: BinaryIO, sample: list[Member]) -> str:
    """Read labels from a small sidecar; empty if it has another form."""
    if len(sample) == 1:
        return ""
    sidecars = {_suffix(each.name): each for each in sample if each.size <= _MAX_SIDECAR_BYTES}
    for suffix in _SIDECAR_SUFFIXES:
        if suffix not in sidecars:
            continue
        member = sidecars[suffix]
        text = os.pread(tar.fileno(), member.size, member.offset).decode("utf-8", "replace")
        if suffix != ".json":
            return joined_labels(" ".join(text.split()))
        # Labels are optional: the clip is used even if the sidecar has another form.
        with suppress(ValueError, RecursionError):
            values = json.loads(text)
            if isinstance(values, dict):
                return joined_labels(values.get("labels", values.get("label")))
    return ""


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def read_member(descriptor: int, clip: ClipSource) -> EncodedAudio | AudioError:
    """Read a member's bytes from its open tar, which may have changed since it was listed."""
    if clip.size > MAX_ENCODED_BYTES:
        rule = f"encoded audio must have at most {MAX_ENCODED_BYTES} bytes; got {clip.size}"
        return audio_error(clip, "too-large", rule, value=clip.size)
    try:
        data = os.pread(descriptor, clip.size, clip.offset)
    except OSError as error:
        return audio_error(clip, "unreadable", f"cannot be read ({error.strerror})")
    if len(data) < clip.size:
        rule = f"the tar has become shorter; {len(data)} of {clip.size} bytes"
        return audio_error(clip, "cut", rule, value=len(data))
    return EncodedAudio(str(clip), data)
