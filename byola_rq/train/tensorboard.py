"""TensorBoard event files with metrics and pictures of views."""

import io
import math
import os
import re
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.errors import CheckpointError, package_needed
from byola_rq.plots.spectrograms import draw_log_mel
from byola_rq.plots.style import make_figure
from byola_rq.runs.metrics import Metrics
from byola_rq.runtime.files import open_own, own_folder

_DOTS_PER_INCH = 100


class TensorBoardWriter:
    """Writes metrics to a new event file for `tensorboard --logdir`.

    Content is in the file when a call returns, so a crash loses nothing. torch's SummaryWriter is
    not used: its first OSError breaks it for good, and its thread prints a traceback.

    Args:
        folder: Folder of the event files; a resumed run adds one.
        last_step: Step of the checkpoint that the run resumes from. TensorBoard ignores later steps
            in earlier files, which this run repeats.
        frontend: Frontend of the views, for the axes of their pictures.

    Raises:
        MissingPackageError: If tensorboard or matplotlib is not installed.
        CheckpointError: If the folder cannot be written.
    """

    def __init__(self, folder: Path, last_step: int, frontend: LogMelSpectrogram) -> None:
        self._event_class, self._record_writer_class = _import_events()
        make_figure(1, 1)  # fails now if matplotlib is missing, not after a thousand steps
        self._frontend = frontend
        self._size = 0  # of the complete records in the file, in bytes
        self._unwritten = self._record(file_version="brain.Event:2")
        try:
            self.path = own_folder(folder) / _next_name(folder)
            self._append(self._record(step=last_step + 1, session_log={"status": "START"}))
        except OSError as error:
            message = f"{folder}: event files cannot be written ({error})"
            raise CheckpointError(message, code="unwritable", path=folder) from error

    def write(self, metrics: Metrics) -> None:
        """Write a row of metrics, one curve for each column.

        Raises:
            OSError: If the disk fails; the next successful call writes the row too.
        """
        values = asdict(metrics)
        step = values.pop("step")
        if math.isnan(metrics.validation):
            del values["validation"]  # none was due, so the curve gets no point
        scalars = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
        self._unwritten += self._record(step=step, summary={"value": scalars})
        self._append(b"")

    def write_views(self, view_1: Tensor, view_2: Tensor, step: int) -> None:
        """Write a picture of two views of a segment, `(F, T)` each, with one color scale.

        Raises:
            OSError: If the disk fails; the picture is lost.
        """
        png, width, height = _paint_views(view_1, view_2, self._frontend)
        image = {"width": width, "height": height, "colorspace": 4, "encoded_image_string": png}
        self._append(self._record(step=step, summary={"value": [{"tag": "views", "image": image}]}))

    def _record(self, **fields: Any) -> bytes:
        """Serialize an event with its length and checksums."""
        record = io.BytesIO()
        event = self._event_class(wall_time=time.time(), **fields)
        self._record_writer_class(record).write(event.SerializeToString())
        return record.getvalue()

    def _append(self, content: bytes) -> None:
        """Write what could not be written before, then `content`."""
        content = self._unwritten + content
        with open_own(self.path) as file:
            if file.tell() > self._size:  # a partial record of a failed write
                file.truncate(self._size)
            file.write(content)
        self._size += len(content)
        self._unwritten = b""


def _next_name(folder: Path) -> str:
    """Return a file name that sorts after all others: TensorBoard reads files in order of names.

    Clocks may differ between the machines on which a run is resumed.
    """
    names = [re.match(r"events\.out\.tfevents\.(\d+)", path.name) for path in folder.iterdir()]
    newest = max((int(match[1]) for match in names if match), default=0)
    second = max(int(time.time()), newest + 1)
    return f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"


def _paint_views(
    view_1: Tensor, view_2: Tensor, frontend: LogMelSpectrogram
) -> tuple[bytes, int, int]:
    """Draw two views side by side; return a PNG, its width and its height in pixels."""
    figure = make_figure(9, 3.8)
    axes = figure.subplots(1, 2, sharey=True)
    views = (view_1.detach().float(), view_2.detach().float())
    low, high = min(view.min().item() for view in views), max(view.max().item() for view in views)
    for number, view in enumerate(views, start=1):
        image = draw_log_mel(
            axes[number - 1], view, frontend, title=f"view {number}", limits=(low, high)
        )
    axes[1].set_ylabel("")
    figure.colorbar(image, ax=axes, label="standardized log-mel")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DOTS_PER_INCH)
    width, height = (round(inches * _DOTS_PER_INCH) for inches in figure.get_size_inches())
    return png.getvalue(), width, height


def _import_events() -> tuple[Any, Any]:
    """Import TensorBoard's classes of events and of their writer."""
    with package_needed("tensorboard.enabled", "tensorboard", extra="tensorboard"):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    return Event, RecordWriter
