"""The command as a user meets it: in a process of its own, with good and bad input."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import byola_rq
from byola_rq.cli.app import main
from tests.conftest import SMALL
from tests.run_process import run_command as run


def assert_refused(done: subprocess.CompletedProcess[str], *told: object) -> None:
    """Assert one line that names `told`, status 2, and no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert all(str(each) in lines[0] for each in told), lines[0]
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Path:
    """A run directory made by the command itself."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    done = run("pretrain", *SMALL, f"data.source={sounds}", f"run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run_dir / "encoder.safetensors")
    return run_dir


@pytest.mark.parametrize(
    ("limit", "arguments"),
    [
        (12, ("prepare", "{sounds}", "packed")),
        (16, ("prepare", "{sounds}", "packed")),
        (16, ("pretrain", *SMALL, "data.source={sounds}", "run.dir=run", "data.workers=2")),
    ],
)
def test_too_few_open_files_for_other_processes_are_one_line(
    sounds: Path, tmp_path: Path, limit: int, arguments: tuple[str, ...]
) -> None:
    given = [each.format(sounds=sounds) for each in arguments]
    command = ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "-", sys.executable, "-m", "byola_rq"]
    done = subprocess.run(
        [*command, *given], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300
    )
    assert_refused(done, "ulimit -n")
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_folders_whose_names_are_no_text_stop_no_command(
    trained: Path, sounds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(trained, folder / "run")
    model, clip = folder / "run" / "encoder.safetensors", sorted(sounds.iterdir())[0]
    for arguments in (
        ["prepare", sounds, folder / "packed", "--workers", 1],
        ["info", folder / "packed"],
        ["pretrain", *SMALL, f"data.source={folder / 'packed'}", f"run.dir={folder / 'new'}"],
        ["pretrain", *SMALL, f"data.source={folder / 'packed'}", f"run.dir={folder / 'new'}"],
        ["embed", sounds, "-o", folder / "out", "--model", model],
        ["export", folder / "run", folder / "m.safetensors"],
        ["runs", folder],
        ["views", clip, folder / "v.png"],
        ["listen", clip, "-o", folder / "page.html", "--model", model],
    ):
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        out, err = capfd.readouterr()
        assert not left.value.code, (arguments[0], err)
        assert (out + err).isascii() or "\udce9" not in out + err
    assert (folder / "page.html").stat().st_size > 100_000
    assert len(np.load(folder / "out" / "embeddings.npy")) == 24


def test_the_whole_way(trained: Path, sounds: Path, tmp_path: Path) -> None:
    model = tmp_path / "encoder.safetensors"
    assert run("export", trained, model).returncode == 0
    assert byola_rq.load(model).summary["steps"] == 4
    done = run("embed", sounds, "-o", tmp_path / "out", "--model", model)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "embeddings.npy").shape == (24, 16)
    assert "embedding: 24/24" in done.stderr
    exact = np.load(tmp_path / "out" / "embeddings.npy")
    half = ("embed", sounds, "--model", model, "--precision", "bfloat16", "-o")
    assert_refused(run(*half, tmp_path / "out"), "--overwrite")  # other weights, another job
    done = run(*half, tmp_path / "half")
    assert done.returncode == 0, done.stderr
    rounded = np.load(tmp_path / "half" / "embeddings.npy")
    # A bfloat16 is off by up to 2^-8 of itself; five layers follow one another.
    error = np.linalg.norm(rounded - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert 0 < error.max() < 5 * 2**-8


def test_a_killed_run_goes_on_to_the_same_bits(sounds: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", *SMALL, f"data.source={sounds}", "train.max_steps=24"]
    whole = run(*arguments, f"run.dir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    killed_dir = tmp_path / "killed"
    command = [sys.executable, "-m", "byola_rq", *arguments, f"run.dir={killed_dir}"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # As in the tests' own process: the number of threads decides about last bits.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not list(killed_dir.glob("step-*")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() != 0, "the run ended before it could be killed"
    again = run(*arguments, f"run.dir={killed_dir}")
    assert again.returncode == 0, again.stderr
    assert "resuming after step" in again.stderr
    for name in ("encoder.safetensors", "step-00000024/optimizer.safetensors"):
        assert (killed_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_views_are_drawn(sounds: Path, tmp_path: Path) -> None:
    clip = sorted(sounds.glob("*.wav"))[0]
    done = run("views", clip, tmp_path / "views.png", "run.seed=3")
    assert done.returncode == 0, done.stderr
    from matplotlib.image import imread

    picture = imread(tmp_path / "views.png")
    assert picture.shape[0] > 300
    # Three spectrograms: many colors, not a blank sheet.
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 200


def test_synthesize_writes_clips(tmp_path: Path) -> None:
    done = run("synthesize", tmp_path / "s", "--clips", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "s" / "clips")
    assert len(list((tmp_path / "s" / "clips").glob("*.wav"))) == 3
    again = run("synthesize", tmp_path / "s", "--clips", 4)
    assert_refused(again, f"error: {tmp_path / 's'}: ")
    assert len(list((tmp_path / "s" / "clips").glob("*.wav"))) == 3


def test_help_teaches_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("pretrain", "embed", "export", "views", "synthesize", "doctor"):
        assert command in done.stdout
        text = run(command, "--help").stdout
        assert "Usage: byola-rq" in text
        # Examples stand on lines of their own, not run together into a paragraph.
        assert command == "doctor" or f"\n    byola-rq {command}" in text
        assert "\\b" not in text


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom byola_rq.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn', 'matplotlib', 'librosa'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_doctor_reports_on_everything() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    for name in ("torch", "torchaudio", "libsndfile", "librosa", "nnAudio", "sklearn", "cpu"):
        assert name in done.stdout


def bad_sound(folder: Path, kind: str, sounds: Path) -> None:
    """A corpus of one good clip and one that is `kind`."""
    folder.mkdir(parents=True)
    shutil.copy(sorted(sounds.glob("*.wav"))[0], folder / "good.wav")
    bad = folder / "odd.wav"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 96000)
    if kind == "text":
        bad.write_text("hello")
    elif kind == "zero length":
        soundfile.write(bad, noise[:0], 16000)
    elif kind == "nan":
        soundfile.write(bad, np.where(np.arange(96000) == 50000, np.nan, noise), 16000, "FLOAT")
    elif kind == "0.1 s":
        soundfile.write(bad, noise[:1600], 16000)
    elif kind == "8 channels":
        soundfile.write(bad, noise.reshape(-1, 8), 16000)
    elif kind == "96 kHz":
        soundfile.write(bad, noise, 96000)
    elif kind == "24 bit":
        soundfile.write(bad, noise, 16000, "PCM_24")


@pytest.mark.parametrize(
    ("kind", "told"), [("text", "not an audio file"), ("zero length", "length")]
)
def test_too_many_bad_clips_stop_before_anything_is_written(
    tmp_path: Path, sounds: Path, kind: str, told: str
) -> None:
    bad_sound(tmp_path / "in", kind, sounds)
    done = run("pretrain", *SMALL, f"data.source={tmp_path / 'in'}", f"run.dir={tmp_path / 'r'}")
    assert_refused(done, tmp_path / "in" / "odd.wav", told)
    assert not list(tmp_path.glob("r/step-*"))
    assert not (tmp_path / "r" / "encoder.safetensors").exists()


def test_a_bad_clip_among_good_ones_is_replaced_and_listed(tmp_path: Path, sounds: Path) -> None:
    bad_sound(tmp_path / "in", "nan", sounds)
    whole = "data.segment_seconds=6"  # all of the clip, so that its bad sample is met
    done = run(
        "pretrain", *SMALL, whole, f"data.source={tmp_path / 'in'}", f"run.dir={tmp_path / 'r'}"
    )
    assert done.returncode == 0, done.stderr
    assert "odd.wav: " in done.stderr
    (row,) = csv.DictReader((tmp_path / "r" / "quarantine.csv").open(newline=""))
    assert row["clip"] == str(tmp_path / "in" / "odd.wav")
    assert row["replaced_by"] == str(tmp_path / "in" / "good.wav")


def test_unusual_clips_are_fine(tmp_path: Path, sounds: Path, trained: Path) -> None:
    for kind in ("0.1 s", "8 channels", "96 kHz", "24 bit"):
        bad_sound(tmp_path / "in" / kind, kind, sounds)
    done = run("pretrain", *SMALL, f"data.source={tmp_path / 'in'}", f"run.dir={tmp_path / 'r'}")
    assert done.returncode == 0, done.stderr
    done = run(
        "embed", tmp_path / "in", "--model", trained / "encoder.safetensors", "-o", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert np.isfinite(np.load(tmp_path / "out" / "embeddings.npy")).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data.source=gone"], ["error: gone: "]),
        (["data.source=empty"], ["error: empty: "]),
        ([], ["data.source"]),
        (["data.source=clips", "optimizer.lr=abc"], ["optimizer.lr: ", "abc"]),
        (["data.source=clips", "optimizer.lrr=1"], ["optimizer.lrr=1"]),
        (
            ["data.source=clips", "views.randomized_quantization.num_bins=0"],
            ["views.randomized_quantization.num_bins: ", "1; got 0"],
        ),
        (["none.yaml", "data.source=clips"], ["error: none.yaml: "]),
        (["--recipe", "genral", "data.source=clips"], ["got genral", "general?"]),
        (["--recipe", "short", "none.yaml"], ["--recipe ", "none.yaml"]),
        (
            ["--recipe", "short", "data.source=clips", "train.max_steps=5"],
            ["train.segments ", "max_steps", "got 180000 and 5"],
        ),
        (["data.source=clips", "train.segments=0"], ["train.segments: ", "got 0"]),
        (["data.source=clips", "run.device=cuda:99"], ["run.device: ", "cuda:99"]),
    ],
)
def test_bad_pretraining_calls(
    tmp_path: Path, sounds: Path, arguments: list[str], told: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips").symlink_to(sounds)
    done = run("pretrain", *arguments, "run.dir=r", cwd=tmp_path)
    assert_refused(done, *told)
    assert not (tmp_path / "r").exists()


def test_another_encoder_s_run_is_refused(trained: Path, sounds: Path) -> None:
    arguments = [*SMALL, f"data.source={sounds}", f"run.dir={trained}", "encoder.dim=24"]
    done = run("pretrain", *arguments)
    assert_refused(done, trained, "encoder.dim", "16", "24")


def test_bad_embedding_calls(trained: Path, sounds: Path, tmp_path: Path) -> None:
    model = trained / "encoder.safetensors"
    out, clip = tmp_path / "o", min(sounds.glob("*.wav"))
    assert_refused(
        run("embed", sounds, "--model", tmp_path / "m", "-o", out), f"error: {tmp_path / 'm'}: "
    )
    assert_refused(run("embed", tmp_path, "--model", model, "-o", out), f"error: {tmp_path}: ")
    assert_refused(run("embed", sounds, "--model", model, "-o", clip), f"error: {clip}: ")
    done = run("embed", sounds)
    assert done.returncode == 2
    assert "--out" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--debug", "export", tmp_path, tmp_path / "m.safetensors")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_views_of_digital_silence_are_drawn_with_a_warning(tmp_path: Path) -> None:
    bark = np.zeros(80000)
    bark[:4000] = 0.3 * np.random.default_rng(0).standard_normal(4000)
    for name, samples in (("bark", bark), ("nothing", np.zeros(80000))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
        done = run("views", tmp_path / f"{name}.wav", tmp_path / f"{name}.png")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{name}.png").exists()
        assert f"{name}.wav: " in done.stderr
        assert "Warning" not in done.stderr
