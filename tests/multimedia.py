"""Sound in MP4, Matroska and AAC files, written by the library that reads them."""

import io
from typing import Any

import av
import numpy as np

# FFmpeg's names of container and codec, and the file's suffix.
FORMS = {
    "m4a": ("ipod", "aac", ".m4a"),
    "alac": ("mov", "alac", ".mov"),
    "mp4 with opus": ("mp4", "libopus", ".mp4"),
    "mp4 with flac": ("mp4", "flac", ".mp4"),
    "webm": ("webm", "libopus", ".webm"),
    "mka": ("matroska", "flac", ".mka"),
    "aac": ("adts", "aac", ".aac"),
    "ogg with flac": ("ogg", "flac", ".oga"),
}


def encode(
    form: str, samples: np.ndarray, rate: int, *, codec: str = "", has_picture: bool = False
) -> bytes:
    """Samples `(S, C)`, one or two channels, as a file; a picture of 16 x 16 beside them or alone.

    Without samples there is no track of sound.
    """
    container_name, own_codec, _ = FORMS[form]
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=container_name) as container:
        picture, sound = None, None
        if has_picture:
            picture = container.add_stream("mjpeg", rate=1, width=16, height=16)
            picture.pix_fmt = "yuvj420p"
        if len(samples):
            sound = container.add_stream(codec or own_codec, rate=rate, layout=layout)
        if picture:
            pixels = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(pixels.reformat(format="yuvj420p")))
            container.mux(picture.encode(None))
        if sound:
            _write_sound(container, sound, samples, rate)
    return file.getvalue()


def _write_sound(container: Any, stream: Any, samples: np.ndarray, rate: int) -> None:
    planes = np.ascontiguousarray(samples.T, np.float32)
    layout, own_format = stream.codec_context.layout, stream.codec_context.format
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout.name)
    frame.sample_rate, frame.pts = rate, 0
    waiting = av.AudioFifo()
    for each in av.AudioResampler(format=own_format, layout=layout, rate=rate).resample(frame):
        waiting.write(each)
    while piece := waiting.read(stream.codec_context.frame_size or 1024, partial=True):
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))
