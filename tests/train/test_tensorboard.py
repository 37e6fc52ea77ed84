"""Event files: written, then read back with TensorBoard's own reader."""

import errno
import io
import math
import os
import signal
import struct
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.errors import CheckpointError, MissingPackageError
from byola_rq.runs.metrics import Metrics
from byola_rq.train.tensorboard import TensorBoardWriter
from tests.conftest import ROOT
from tests.refusal import refused

resource = pytest.importorskip("resource")


@pytest.fixture(autouse=True)
def needs_packages(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        pytest.importorskip("matplotlib", reason="pictures need matplotlib")


def make_metrics(step: int, loss: float = 1.0) -> Metrics:
    others = {field.name: 0.25 * step for field in fields(Metrics)}
    return Metrics(**{**others, "step": step, "loss": loss})  # type: ignore[arg-type]


def make_writer(folder: Path, last_step: int = 0) -> TensorBoardWriter:
    return TensorBoardWriter(folder, last_step, LogMelSpectrogram())


def read_back(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read_back(folder).Scalars("loss")]


def views(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two spectrograms of what is no silence; values a few standard deviations wide."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 64, 96, generator=generator).unbind()
    return first, second


def test_every_column_is_a_curve(tmp_path: Path) -> None:
    writer = make_writer(tmp_path / "new" / "events")
    rows = [make_metrics(step, loss=2.5 / step) for step in (50, 100, 150)]
    for row in rows:
        writer.write(row)
    read = read_back(tmp_path / "new" / "events")
    names = {field.name for field in fields(Metrics)} - {"step"}
    assert set(read.Tags()["scalars"]) == names
    for name in names:
        got = [(event.step, event.value) for event in read.Scalars(name)]
        assert got == [(row.step, pytest.approx(asdict(row)[name], rel=1e-6)) for row in rows]


def test_the_curve_of_validation_has_points_where_one_was_due(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.write(replace(make_metrics(1), validation=math.nan))
    writer.write(replace(make_metrics(2), validation=62.5))
    read = read_back(tmp_path)
    assert [(event.step, event.value) for event in read.Scalars("validation")] == [(2, 62.5)]
    assert [event.step for event in read.Scalars("loss")] == [1, 2]


def test_a_loss_that_is_no_number_is_written(tmp_path: Path) -> None:
    make_writer(tmp_path).write(make_metrics(1, loss=math.nan))
    ((_, loss),) = losses(tmp_path)
    assert np.isnan(loss)


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from tests.train.test_tensorboard import make_metrics, make_writer, views
writer = make_writer(Path(sys.argv[1]))
for step in (1, 2, 3):
    writer.write(make_metrics(step))
writer.write_views(*views(), step=3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3]
    assert [event.step for event in read_back(tmp_path).Images("views")] == [3]


def test_a_resumed_run_replaces_what_it_repeats(tmp_path: Path) -> None:
    killed = make_writer(tmp_path)
    for step in (1, 2, 3, 4):
        killed.write(make_metrics(step, loss=1.0))
        killed.write_views(*views(0), step=step)
    with killed.path.open("ab") as file:  # it was killed while it wrote
        file.write(struct.pack("<Q", 1000) + b"abc")
    for last_step, loss in ((2, 0.5), (4, 0.25)):
        resumed = make_writer(tmp_path, last_step)
        for step in range(last_step + 1, 6):
            resumed.write(make_metrics(step, loss=loss))
            resumed.write_views(*views(1), step=step)
    assert losses(tmp_path) == [(1, 1.0), (2, 1.0), (3, 0.5), (4, 0.5), (5, 0.25)]
    pictures = read_back(tmp_path).Images("views")
    assert [event.step for event in pictures] == [1, 2, 3, 4, 5]
    first, *_, last = (event.encoded_image_string for event in pictures)
    assert first != last


def test_clocks_that_disagree_change_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_writer(tmp_path).write(make_metrics(1, loss=1.0))
    monkeypatch.setattr("time.time", lambda: 1e9)  # of 2001
    resumed = make_writer(tmp_path)
    resumed.write(make_metrics(1, loss=0.5))
    assert sorted(tmp_path.iterdir())[-1] == resumed.path
    assert losses(tmp_path) == [(1, 0.5)]


def test_a_picture_shows_both_views_on_one_scale(tmp_path: Path) -> None:
    from matplotlib import colormaps
    from PIL import Image

    loud, quiet = torch.full((64, 96), 4.0), torch.full((64, 96), -4.0)
    make_writer(tmp_path).write_views(loud, quiet, step=7)
    (event,) = read_back(tmp_path).Images("views")
    picture = Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")
    assert (event.step, event.width, event.height) == (7, *picture.size)
    pixels = np.asarray(picture)
    ends = [255 * np.array(colormaps["magma"](end)[:3]) for end in (1.0, 0.0)]
    counts = [(np.abs(pixels - end) < 1).all(axis=-1) for end in ends]
    # Each fills more than a quarter of the picture, the loud one on the left.
    assert all(count.mean() > 0.25 for count in counts)
    middles = [np.nonzero(count)[1].mean() for count in counts]
    assert middles[0] < middles[1] - picture.width / 4


def test_views_that_are_all_the_same_are_drawn(tmp_path: Path) -> None:
    silence = torch.zeros(64, 96)
    make_writer(tmp_path).write_views(silence, silence, step=1)
    assert len(read_back(tmp_path).Images("views")) == 1


def test_half_a_record_of_a_full_disk_is_overwritten(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.write(make_metrics(1))
    with writer.path.open("ab") as file:  # what a write that the disk cut short leaves
        file.write(struct.pack("<Q", 1000) + b"abc")
    writer.write(make_metrics(2))
    assert [step for step, _ in losses(tmp_path)] == [1, 2]


def test_a_full_disk_costs_pictures_but_no_curve(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.write(make_metrics(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size + 20, before[1]))
    try:
        for step in (2, 3):
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                writer.write(make_metrics(step))
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                writer.write_views(*views(), step=step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.write_views(*views(), step=4)
    writer.write(make_metrics(4))
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4]
    assert [event.step for event in read_back(tmp_path).Images("views")] == [4]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(CheckpointError, "unwritable", tmp_path / "file"):
        make_writer(tmp_path / "file")


@pytest.mark.parametrize(
    ("modules", "extra"),
    [
        (("tensorboard", "tensorboard.compat.proto.event_pb2"), "tensorboard"),
        (("matplotlib.figure",), "plots"),
    ],
)
def test_without_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...], extra: str
) -> None:
    if extra == "plots":
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf"\.\[{extra}\]"):
        make_writer(tmp_path / "events")
    assert not (tmp_path / "events").exists()
