"""Plan of a data set, and writing it: sounds, texts and packed archives."""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
import soxr

from byola_rq.runtime.files import remove_leftovers, replace_file
from byola_rq.synthesis.primitives import SAMPLE_RATE, Waveform

# Level of a recording in dB of full scale; narrow, since with few clips loudness would dominate.
LEVEL_DB = (-26.0, -20.0)


@dataclass(frozen=True)
class SetFile:
    """Audio file of a data set: name, waveform and format."""

    name: str  # the suffix, .wav or .flac, gives the format
    make: Callable[[], Waveform]  # mono at 16 kHz
    sample_rate: int = SAMPLE_RATE
    subtype: str = "PCM_16"
    num_channels: int = 1


@dataclass(frozen=True)
class SetPlan:
    """Files of one data set.

    Attributes:
        folder: Publisher's name of the root folder.
        sounds: Audio files, each once.
        texts: Content of text files by file name.
        packed: Folders written as `<folder>.tgz` instead.
    """

    folder: str
    sounds: tuple[SetFile, ...]
    texts: dict[str, str]
    packed: frozenset[str] = frozenset()


def scale(count: int, size: float, at_least: int = 1) -> int:
    """Scale a count of the full miniature to one of another size."""
    return max(at_least, round(count * size))


def write_plan(plan: SetPlan, folder: Path) -> Iterator[int]:
    """Write the files that are missing, each atomically.

    Yields:
        Number of sounds in each file, after it is written.
    """
    for place in (folder, *folder.rglob("*/")):
        if place.is_dir() and not place.is_symlink():
            remove_leftovers(place)  # temporary files of a killed call
    for name, entries in _files(plan).items():
        path = folder / name
        if not path.exists():
            encoded = {entry: _encode(content) for entry, content in entries.items()}
            parent = PurePosixPath(name).parent
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, encoded[name] if name in encoded else _pack(encoded, parent))
        yield sum(isinstance(content, SetFile) for content in entries.values())


def _files(plan: SetPlan) -> dict[str, dict[str, SetFile | str]]:
    """Group contents by file on disk: a single entry, or the members of an archive."""
    files: dict[str, dict[str, SetFile | str]] = {}
    contents: dict[str, SetFile | str] = {**plan.texts, **{s.name: s for s in plan.sounds}}
    for name, content in contents.items():
        archives = [str(p) for p in PurePosixPath(name).parents if str(p) in plan.packed]
        files.setdefault(f"{archives[0]}.tgz" if archives else name, {})[name] = content
    return files


def _encode(content: SetFile | str) -> bytes:
    if isinstance(content, str):
        return content.encode()
    waveform = content.make()
    if content.sample_rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, SAMPLE_RATE, content.sample_rate, quality="HQ")
    if content.num_channels == 2:
        # The second microphone is 17 cm farther away.
        later = np.pad(waveform, (content.sample_rate // 2000, 0))[: len(waveform)]
        waveform = np.stack([waveform, 0.8 * later], axis=1)
    file = io.BytesIO()
    suffix = PurePosixPath(content.name).suffix[1:].upper()
    soundfile.write(file, waveform, content.sample_rate, subtype=content.subtype, format=suffix)
    return _erase_time(file.getvalue())


def _erase_time(data: bytes) -> bytes:
    """Zero the time of writing that libsndfile stores in the PEAK chunk of a float wav."""
    chunk = data.find(b"PEAK", 0, 128) if data.startswith(b"RIFF") else -1
    # PEAK, size, version, then the time: 4 bytes each.
    return data if chunk < 0 else data[: chunk + 12] + bytes(4) + data[chunk + 16 :]


def _pack(contents: dict[str, bytes], parent: PurePosixPath) -> bytes:
    """Pack files into a tgz, named relative to `parent`, without times and owners."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as compressed,
        tarfile.open(mode="w", fileobj=compressed, format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, data in contents.items():
            member = tarfile.TarInfo(str(PurePosixPath(name).relative_to(parent)))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
