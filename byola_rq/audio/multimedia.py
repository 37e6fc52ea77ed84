"""Audio tracks of MP4, Matroska and AAC files, decoded by PyAV where it is installed."""

import bisect
import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from byola_rq.audio.containers import joined, skip_id3, walk_boxes, walk_ebml
from byola_rq.errors import AudioError

SUFFIXES = frozenset(
    {".3gp", ".aac", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp4", ".weba", ".webm"}
)
REMEDY = "`pip install '.[containers]'` in the checkout adds its decoder"
HAS_DECODER = importlib.util.find_spec("av") is not None

_BLOCK_FRAMES = 2**17
_MAX_INDEX_BYTES = 1 << 28  # that of a day of AAC has 30 MB
# Names of the boxes that list samples, and the number in each; they may overlap.
_NUM_LISTED = re.compile(rb"(?=(?:(?:stsz|stz2).{8}|trun.{4})(.{4}))", re.DOTALL)
_DECODERS = {
    **{"aac": "AAC", "alac": "ALAC", "flac": "FLAC", "mp3": "MP3", "mp3float": "MP3"},
    **{"opus": "Opus", "libopus": "Opus", "vorbis": "Vorbis"},
}


@dataclass(frozen=True)
class Track:
    """First audio track of a file, decoded once to count its frames.

    Attributes:
        demuxer: FFmpeg's name of the container.
        sample_rate: Sample rate in Hz.
        num_channels: Number of channels in the file.
        num_frames: Number of frames that decode.
        places: About one (time, frame) pair per second: the time of a packet in the track's
            units, and the first frame that it decodes to.
    """

    demuxer: str
    sample_rate: int
    num_channels: int
    num_frames: int
    places: tuple[tuple[int, int], ...]


def find_track(file: BinaryIO, demuxer: str) -> Track:
    """Decode a file once to measure it: headers round its length or omit it.

    Raises:
        AudioError: Without the source's name: if it has no audio track, the codec is not
            supported, it does not decode, or it is several concatenated files.
    """
    _check_structure(file, demuxer)
    rate = num_channels = num_frames = 0
    places: list[tuple[int, int]] = []
    container, stream = _open(file, demuxer)
    with contextlib.closing(container):
        for time, block, block_rate in _decode(container, stream):
            if not num_frames:
                rate, num_channels = block_rate, block.shape[1]
            if (block_rate, block.shape[1]) != (rate, num_channels):
                form = f"{block_rate} Hz with {block.shape[1]} channels behind {rate} Hz"
                rule = f"sample rate must be the same in all parts of a file; got {form}"
                message = f"{rule} with {num_channels}"
                raise AudioError(message, code="unsupported", key="sample rate", value=block_rate)
            if time is not None and (not places or num_frames - places[-1][1] >= rate):
                places.append((time, num_frames))
            num_frames += len(block)
    return Track(demuxer, rate, num_channels, num_frames, tuple(places))


def _check_structure(file: BinaryIO, demuxer: str) -> None:
    """Raise for concatenated files, of which FFmpeg reads one, and for indexes that are bombs."""
    start, size = skip_id3(file), file.seek(0, io.SEEK_END)
    walk = {"mov": walk_boxes, "matroska": walk_ebml}.get(demuxer)
    first, num_samples = None, 0
    with contextlib.suppress(EOFError):
        for name, num_bytes, place in walk(file, start, size) if walk else ():
            if name == first:
                raise joined(place)
            first = first or name
            if demuxer == "matroska" and name[0] < 0x10:  # FFmpeg would search for the next element
                message = f"damaged: no element of Matroska at byte {place}"
                raise AudioError(message, code="damaged", key="byte", value=place)
            if demuxer == "mov" and name not in (b"mdat", b"free", b"skip"):
                file.seek(place)
                num_samples += _count_listed(file.read(min(num_bytes or size, _MAX_INDEX_BYTES)))
            if num_samples > size:
                rule = f"its index must list at most {size} samples, one a byte; got {num_samples}"
                raise AudioError(rule, code="too-large", key="samples", value=num_samples)
    file.seek(0)


def _count_listed(index: bytes) -> int:
    """Count the samples that a box says that it lists: FFmpeg takes memory for each.

    Raises:
        AudioError: If the box is too large, or may be compressed.
    """
    if len(index) == _MAX_INDEX_BYTES or b"cmov" in index:
        rule = f"its index must be plain and below {_MAX_INDEX_BYTES} bytes"
        raise AudioError(rule, code="too-large", key="index", value=len(index))
    return sum(int.from_bytes(found[1]) for found in _NUM_LISTED.finditer(index))


class TrackFile:
    """Opened audio track with the part of soundfile's `SoundFile` interface that is used."""

    def __init__(self, file: BinaryIO, track: Track) -> None:
        self.samplerate, self.channels = track.sample_rate, track.num_channels
        self.frames, self.format, self.subtype = track.num_frames, track.demuxer, ""
        self._file = file
        self._track = track
        self._rest = np.empty((0, track.num_channels), np.float32)
        self._opened = _open(file, track.demuxer)
        self._blocks = _decode(*self._opened)

    def seek(self, position: int) -> None:
        """Seek to a frame, decoding about a second before it: codecs carry state over."""
        first = self._go_before(position)
        if first is None:
            self._opened[0].close()
            self._file.seek(0)
            self._opened = _open(self._file, self._track.demuxer)
            self._blocks = _decode(*self._opened)
            self._rest, first = self._rest[:0], 0
        while first < position and (num := len(self.read(min(position - first, _BLOCK_FRAMES)))):
            first += num

    def _go_before(self, position: int) -> int | None:
        """Seek to a known place at least a second before `position`; return its frame or None."""
        before = bisect.bisect_right(
            self._track.places, position - self.samplerate, key=lambda place: place[1]
        )
        if before < 2:
            return None
        container, stream = self._opened
        container.seek(self._track.places[before - 1][0], stream=stream)
        self._blocks, frame_at = _decode(container, stream), dict(self._track.places)
        for time, block, _ in self._blocks:
            first = None if time is None else frame_at.get(time)
            if first is not None:
                self._rest = block
                return first if first <= position else None
        return None

    def read(self, num_frames: int, **_: object) -> npt.NDArray[np.float32]:
        """Read the next frames, float32 `(frames, channels)`; fewer at the end."""
        blocks, num = [self._rest], len(self._rest)
        while num < num_frames and (following := next(self._blocks, None)):
            blocks.append(following[1])
            num += len(following[1])
        whole = np.concatenate(blocks)
        self._rest = whole[num_frames:]
        return whole[:num_frames]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened[0].close()
        self._file.close()


def _open(file: BinaryIO, demuxer: str) -> tuple[Any, Any]:
    """Open the container and its first audio track."""
    import av

    try:
        # The whitelist also applies to the decoders that opening tries.
        options = {"codec_whitelist": ",".join(_DECODERS)}
        container = av.open(file, format=demuxer, options=options)
    except (av.FFmpegError, ValueError) as error:
        reason = f"not an audio file that can be read ({_reason(error)})"
        raise AudioError(reason, code="damaged") from error
    try:
        if not container.streams.audio:
            raise AudioError("there is no track of sound in it", code="empty", key="track")
        stream = container.streams.audio[0]
        name = stream.codec_context.codec.name if stream.codec_context else "an unknown one"
        if name not in _DECODERS:
            known = ", ".join(dict.fromkeys(_DECODERS.values()))
            rule = f"codec in this container must be one of {known}; got {name}"
            raise AudioError(rule, code="unsupported", key="codec", value=name)
    except BaseException:
        container.close()
        raise
    return container, stream


def _decode(
    container: Any, stream: Any
) -> Iterator[tuple[int | None, npt.NDArray[np.float32], int]]:
    """Iterate over decoded frames: time, samples `(frames, channels)`, rate in Hz.

    Raises:
        AudioError: Without the source's name, if it does not decode.
    """
    import av

    with contextlib.closing(container.decode(stream)) as frames:
        try:
            for frame in frames:
                if frame.is_corrupt:
                    raise ValueError(f"a broken frame at {frame.time} s")
                yield frame.pts, _as_float(frame), frame.sample_rate
        except (av.FFmpegError, ValueError) as error:
            raise AudioError(
                f"damaged: decoding failed: {_reason(error)}", code="damaged"
            ) from error


def _as_float(frame: Any) -> npt.NDArray[np.float32]:
    samples = frame.to_ndarray()
    if frame.format.is_planar:
        samples = samples.T
    samples = samples.reshape(-1, frame.layout.nb_channels)
    scale = 1.0 if samples.dtype.kind == "f" else -1.0 / np.iinfo(samples.dtype).min
    return np.ascontiguousarray(samples, np.float32) * np.float32(scale)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
