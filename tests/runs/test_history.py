"""Summaries that `runs` reads from the directories of runs."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from byola_rq.errors import CheckpointError, Code
from byola_rq.plots.style import COLORS
from byola_rq.runs.best import BestCheckpoint
from byola_rq.runs.history import find_runs, read_columns
from byola_rq.runs.table import describe_runs
from byola_rq.train.loop import pretrain
from tests.conftest import small_run
from tests.refusal import refused
from tests.run_process import run_command

HEADER = "step,epoch,loss,embedding_std"


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Path:
    """A folder of two real runs: `base` of 4 steps, `low` of 3 with another learning rate."""
    folder = tmp_path_factory.mktemp("several") / "runs"
    for name, overrides in {
        "base": [],
        "low": ["optimizer.lr=1e-4", "train.max_steps=3", "views.augmentations=[mixup]"],
    }.items():
        # The clips that mixup remembers are a part of each checkpoint.
        pretrain(small_run(folder / name, sounds, "views.mixup.memory=16", *overrides))
    return folder


@pytest.fixture
def runs_folder(trained_runs: Path, tmp_path: Path) -> Path:
    """A copy of the real runs, to be damaged."""
    return Path(shutil.copytree(trained_runs, tmp_path / "runs"))


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_a_real_run_is_read(trained_runs: Path) -> None:
    (run,), notes = find_runs([trained_runs / "base"])
    assert notes == []
    assert run.name == "base"
    assert run.metrics["step"].tolist() == [1, 2, 3, 4]
    last = (trained_runs / "base" / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert run.last("step") == 4
    assert run.last("loss") == float(last[2])
    assert run.last("no_such_column") is None
    assert run.config["encoder.dim"] == 16


def test_a_folder_stands_for_its_runs_each_once(trained_runs: Path) -> None:
    named = [trained_runs / "low", trained_runs, trained_runs / "low" / ".." / "base"]
    runs, notes = find_runs(named)
    assert [run.name for run in runs] == ["low", "base"]
    assert notes == []


def test_runs_of_one_name_are_told_apart(runs_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs_folder, tmp_path / "other"))
    runs, _ = find_runs([runs_folder / "base", other])
    assert [run.name for run in runs] == [str(runs_folder / "base"), str(other / "base"), "low"]


def test_the_whole_report(trained_runs: Path) -> None:
    runs, _ = find_runs([trained_runs])
    manifest = trained_runs / "base" / "step-00000004" / "manifest.json"
    lines = list(describe_runs(runs, now=manifest.stat().st_mtime + 3 * 3600))
    head, base, low = map(cells, lines[:3])
    assert head[:2] == ["run", "steps"]
    assert base[:3] == ["base", "4/4 (100 %)", "1.33"]  # 4 steps of 8 of 24 clips
    assert low[:3] == ["low", "3/3 (100 %)", "1.00"]
    assert base[head.index("loss")] == f"{runs[0].last('loss'):.4f}"
    assert base[head.index("last checkpoint")] == "step-00000004, 3 h ago"
    assert low[head.index("last checkpoint")].startswith("step-00000003, ")
    assert [cells(line) for line in lines[4:7]] == [
        ["run", "encoder", "D", "augmentations"],
        ["base", "audio_ntt_2020", "16", "random_resized_crop, randomized_quantization"],
        ["low", "audio_ntt_2020", "16", "mixup"],
    ]
    assert [cells(line) for line in lines[8:]] == [
        ["differs", "value", "runs"],
        ["optimizer.lr", "0.0003", "base"],
        ["0.0001", "low"],
        ["train.max_steps", "4", "base"],
        ["3", "low"],
        ["views.augmentations", "random_resized_crop, randomized_quantization", "base"],
        ["mixup", "low"],
    ]


def test_columns_stand_under_their_names(trained_runs: Path) -> None:
    runs, _ = find_runs([trained_runs])
    lines = list(describe_runs(runs))
    assert len({line.index("step-") for line in lines[1:3]} | {lines[0].index("last check")}) == 1


def test_equal_configurations_are_reported(runs_folder: Path) -> None:
    shutil.copytree(runs_folder / "base", runs_folder / "again")
    config = runs_folder / "again" / "config.yaml"
    config.write_text(config.read_text().replace("runs/base", "runs/again"))
    runs, _ = find_runs([runs_folder / "base", runs_folder / "again"])
    assert list(describe_runs(runs))[-1] == "their configurations are the same"


def test_a_run_that_has_just_begun(runs_folder: Path) -> None:
    base = runs_folder / "base"
    (base / "metrics.csv").unlink()
    for checkpoint in base.glob("step-*"):
        shutil.rmtree(checkpoint)
    (run,), notes = find_runs([base])
    line = cells(list(describe_runs([run]))[1])
    assert line == ["base", "0/4 (0 %)", *["-"] * 7, "none"]
    assert notes == []


@pytest.mark.parametrize("num_clips", [24, 1_789_621])
def test_steps_of_all_are_told_from_the_epoch(runs_folder: Path, num_clips: int) -> None:
    base = runs_folder / "base"
    config = base / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 4", "max_steps: null"))
    step = num_clips // 8
    epoch = f"{step * 8 / num_clips:.6g}"
    (base / "metrics.csv").write_text(f"{HEADER}\n{step},{epoch},1,0.1\n")
    (run,), _ = find_runs([base])
    assert run.num_steps == pytest.approx(100 * num_clips // 8, rel=1e-5)
    (base / "metrics.csv").write_text(f"{HEADER}\n5,1e-320,1,0.1\n")
    (run,), _ = find_runs([base])
    assert cells(list(describe_runs([run]))[1])[1] == f"5/{10**15} (0 %)"
    (base / "metrics.csv").unlink()
    (run,), _ = find_runs([base])
    assert run.num_steps is None
    assert cells(list(describe_runs([run]))[1])[1] == "0/?"


def test_steps_of_all_are_those_of_the_segments(runs_folder: Path) -> None:
    base = runs_folder / "base"
    config = base / "config.yaml"
    text = config.read_text().replace("max_steps: 4", "max_steps: null")
    config.write_text(text.replace("segments: null", "segments: 41"))
    (run,), _ = find_runs([base])
    assert run.num_steps == 6
    assert cells(list(describe_runs([run]))[1])[1] == "4/6 (66 %)"


def test_a_run_of_before_the_newer_keys_is_read(runs_folder: Path) -> None:
    path = runs_folder / "base" / "config.yaml"
    values = yaml.safe_load(path.read_text())
    del values["train"]["segments"], values["encoder"]["init"], values["encoder"]["freeze_steps"]
    path.write_text(yaml.safe_dump(values))
    runs, notes = find_runs([runs_folder])
    assert notes == []
    assert [run.num_steps for run in runs] == [4, 3]
    assert not any("segments" in line for line in list(describe_runs(runs))[5:])


def test_damaged_and_torn_rows_are_reported_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [
        "1,0.1,1.5,0.1",
        "2,0.2,1.x,0.1",
        "3,0.3,1.3",
        "nan,1,1,1",
        "1e300,1,1,1",
        "-1,1,1,1",
        "5,0.5,1.1,",
        "6,0.6,1.0,0.",
    ]
    path.write_bytes("\r\n".join([HEADER, *rows]).encode())
    columns, notes = read_columns(path)
    assert columns["step"].tolist() == [1, 5]
    assert columns["loss"].tolist() == [1.5, 1.1]
    np.testing.assert_array_equal(columns["embedding_std"], [0.1, np.nan])
    assert notes == [
        f"{path}: 5 of 7 rows are damaged and left out (line 3, 4, 5, 6, 7)",
        f"{path}: the last row is incomplete and left out",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"step,loss", b"step,loss,loss\n"]
)
def test_a_file_that_is_no_metrics_is_reported(runs_folder: Path, content: bytes) -> None:
    (runs_folder / "base" / "metrics.csv").write_bytes(content)
    runs, notes = find_runs([runs_folder])
    assert len(notes) == 1
    assert "metrics.csv: must start with the names of its columns" in notes[0]
    assert runs[0].metrics == {}
    assert cells(list(describe_runs(runs))[1])[:2] == ["base", "0/4 (0 %)"]


def test_every_cut_of_a_metrics_file_is_read(trained_runs: Path, tmp_path: Path) -> None:
    whole = (trained_runs / "base" / "metrics.csv").read_bytes()
    path = tmp_path / "metrics.csv"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        columns, notes = read_columns(path)
        rows = whole[:size].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") - 1
        assert len(columns.get("loss", [])) == max(rows, 0)
        assert bool(notes) != whole[:size].endswith((b"\r", b"\n"))


def test_a_loss_that_is_no_number_is_seen(runs_folder: Path) -> None:
    path = runs_folder / "base" / "metrics.csv"
    path.write_text(f"{HEADER}\n3,1,0.5,0.1\n4,,nan,\n")
    (run,), notes = find_runs([runs_folder / "base"])
    assert notes == []
    assert cells(list(describe_runs([run]))[1])[1:4] == ["4/4 (100 %)", "nan", "nan"]


def test_newer_columns_are_reported_if_present(runs_folder: Path) -> None:
    path = runs_folder / "base" / "metrics.csv"
    rows = ["2,0.6,0.6,0.02,10,3", "3,1,0.6,0.02,10,", "4,1.3,0.5,0.02,11.27,1"]
    path.write_text("\n".join([f"{HEADER},effective_rank,skipped_steps", *rows, ""]))
    (run,), _ = find_runs([runs_folder / "base"])
    head, line = map(cells, list(describe_runs([run]))[:2])
    assert line[head.index("effective rank")] == "11.3"
    assert line[head.index("skipped")] == "4"
    assert line[head.index("segments/s")] == "-"


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(-5, "0 s"), (90, "90 s"), (600, "10 min"), (9000, "2 h"), (10 * 86400, "10 days")],
)
def test_ages(runs_folder: Path, seconds: float, age: str) -> None:
    run_dir = runs_folder / "base"
    os.utime(run_dir / "step-00000004" / "manifest.json", (1e9, 1e9))
    (run,), _ = find_runs([run_dir])
    assert list(describe_runs([run], now=1e9 + seconds))[1].endswith(f"step-00000004, {age} ago")


def test_a_checkpoint_without_manifest_is_passed_over(runs_folder: Path) -> None:
    run_dir = runs_folder / "base"
    (run_dir / "step-00000004" / "manifest.json").unlink()
    (run_dir / ".step-00000006.partial").mkdir()
    (run_dir / "step-x").mkdir()
    (run,), _ = find_runs([run_dir])
    assert "step-00000002, " in list(describe_runs([run]))[1]


@pytest.mark.parametrize(
    ("text", "code", "key", "value"),
    [
        ("", "value", "encoder.name", None),
        ("run: [", "unreadable", None, None),
        ("encoder: {name: audio_ntt_2020, dim: wide}", "value", "encoder.dim", "wide"),
        ("3", "value", "encoder.name", None),
    ],
)
def test_a_configuration_that_is_none(
    runs_folder: Path, text: str, code: Code, key: str | None, value: str | None
) -> None:
    path = runs_folder / "base" / "config.yaml"
    path.write_text(text)
    with refused(CheckpointError, code, path, key=key, value=value) as caught:
        find_runs([runs_folder / "base"])
    runs, (note,) = find_runs([runs_folder])
    assert [run.name for run in runs] == ["low"]
    assert note.startswith(str(caught.value))
    shutil.rmtree(runs_folder / "low")
    with refused(CheckpointError, code, path, key=key, value=value):
        find_runs([runs_folder])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cases: list[tuple[str, Code]] = [("none", "missing"), ("file", "foreign"), ("", "foreign")]
    for name, code in cases:
        with refused(CheckpointError, code, tmp_path / name, key="RUN"):
            find_runs([tmp_path / name])
    with refused(CheckpointError, "missing", key="RUN"):
        find_runs([])


def validated(run_dir: Path, scores: list[str], best: int) -> None:
    """Give a run scores as a validation would, and its best checkpoint."""
    path = run_dir / "metrics.csv"
    rows = [f"{step},{step / 3},0.5,0.1,{score}" for step, score in enumerate(scores, start=1)]
    path.write_text("\n".join([f"{HEADER},validation", *rows, ""]))
    BestCheckpoint(run_dir, "probe").note(best, max(float(score) for score in scores if score))


def test_scores_are_reported_if_there_are_any(runs_folder: Path) -> None:
    validated(runs_folder / "base", ["", "62.25", "60", ""], best=2)
    runs, notes = find_runs([runs_folder])
    assert notes == []
    lines = list(describe_runs(runs))
    head, base, low = map(cells, lines[:3])
    assert head[-2:] == ["validation", "best checkpoint"]
    assert base[-2:] == ["60.0 %", "step-00000002, 62.2 %"]
    assert low[-2:] == ["-", "none"]
    ends = {line.rindex(" %", 0, line.rindex("step-")) for line in lines[1:2]}
    assert ends == {lines[0].index("validation") + len("validation") - 2}
    (alone,), _ = find_runs([runs_folder / "low"])
    assert "validation" not in "".join(describe_runs([alone]))


def test_a_best_checkpoint_that_is_lost_is_reported(runs_folder: Path) -> None:
    base = runs_folder / "base"
    validated(base, ["", "62", "60", "59"], best=2)
    shutil.rmtree(base / "step-00000002")
    (run,), notes = find_runs([base])
    (note,) = notes
    assert note.startswith(f"{base / 'step-00000002'}: ")
    assert str(base / "best.json") in note
    assert cells(list(describe_runs([run]))[1])[-1] == "step-00000002, 62.0 %"
    (base / "best.json").write_text("{")
    (run,), (note,) = find_runs([base])
    assert note.startswith(f"{base / 'best.json'}: ")
    assert cells(list(describe_runs([run]))[1])[-2:] == ["59.0 %", "none"]


@pytest.mark.slow
def test_the_command(runs_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    with (runs_folder / "low" / "metrics.csv").open("a") as file:
        file.write("4,1.3")
    picture = tmp_path / "pictures" / "curves.png"
    done = run_command("runs", runs_folder, "--picture", picture)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {runs_folder / 'low' / 'metrics.csv'}: ")
    lines = done.stdout.splitlines()
    assert cells(lines[2])[:2] == ["low", "3/3 (100 %)"]
    assert lines[-1] == str(picture)
    from matplotlib.colors import to_rgba
    from matplotlib.image import imread

    pixels = imread(picture)
    for color in COLORS[:2]:  # of each run's curves
        assert (np.abs(pixels - np.array(to_rgba(color))).max(axis=-1) < 0.02).any()


@pytest.mark.parametrize("arguments", [["nowhere"], ["{runs}", "--picture", "{runs}/x.abc"]])
@pytest.mark.slow
def test_the_command_refuses_in_one_line(trained_runs: Path, arguments: list[str]) -> None:
    done = run_command("runs", *(argument.format(runs=trained_runs) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
