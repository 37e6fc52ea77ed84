"""Pretraining: files of a run, resuming bit for bit, and bad input."""

import contextlib
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import byola_rq
from byola_rq import CheckpointError
from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.audio.io import pad_both_ends, read_audio
from byola_rq.config import Config, load_config
from byola_rq.errors import CorpusError, TrainingError
from byola_rq.export.run import export_run
from byola_rq.runs.checkpoint import find_damage, load_newest_checkpoint
from byola_rq.runs.metrics import COLUMNS, read_metrics
from byola_rq.train.loop import pretrain
from byola_rq.train.setup import start_run
from byola_rq.train.step import train_step
from tests.hand_packed import pack
from tests.refusal import refused


def changed(config: Config, tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "base.yaml"
    path.write_text(config.to_yaml())
    return load_config(path, overrides)


def tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint holds."""
    checkpoint, damages = load_newest_checkpoint(run_dir)
    assert checkpoint is not None
    assert not damages
    return {**checkpoint.model, **checkpoint.optimizer}


def assert_same_bits(first: Path, second: Path) -> None:
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def stop_after_step_2(config: Config) -> Path:
    """Leave of a run what a stop after step 2 does, with rows of metrics beyond; copy the whole."""
    whole = shutil.copytree(config.run.dir, config.run.dir.with_name("whole"))
    shutil.rmtree(config.run.dir / "step-00000004")
    (config.run.dir / "encoder.safetensors").unlink()
    return whole


def test_a_run_leaves_what_it_promises(small_config: Config, sounds: Path) -> None:
    model_path = pretrain(small_config)
    run_dir = small_config.run.dir
    assert model_path == run_dir / "encoder.safetensors"
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "config.yaml",
        "encoder.safetensors",
        "metrics.csv",
        "step-00000002",
        "step-00000004",
    ]
    assert load_config(run_dir / "config.yaml") == small_config
    rows = read_metrics(run_dir / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == COLUMNS
    assert float(rows[-1]["epoch"]) == pytest.approx(4 * 8 / 24, rel=1e-5)
    # The online encoder, with the statistics of the corpus.
    model = byola_rq.load(model_path)
    saved = tensors(run_dir)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, saved[f"byol.encoder.{name}"])
    assert model.summary["steps"] == 4
    waveform = read_audio(sorted(sounds.glob("*.wav"))[0], 16000)
    assert model(waveform, 16000).shape == (1, 16)


def test_losses_are_those_of_the_steps(trained_config: Config, tmp_path: Path) -> None:
    config = changed(trained_config, tmp_path, f"run.dir={tmp_path / 'by_hand'}")
    with contextlib.ExitStack() as lock:
        run = start_run(config, torch.device("cpu"), lock)
        expected = [train_step(run.state, batch).loss.item() for batch in run.load_batches()]
    rows = read_metrics(trained_config.run.dir / "metrics.csv")
    assert [float(row["loss"]) for row in rows] == pytest.approx(expected, rel=1e-5)


def test_statistics_are_those_of_the_corpus(
    small_config: Config, sounds: Path, tmp_path: Path
) -> None:
    # Segments as long as the longest clip hold all of every clip.
    config = changed(small_config, tmp_path, "data.segment_seconds=2", "train.max_steps=1")
    statistics = byola_rq.load(pretrain(config)).statistics
    clips = [pad_both_ends(read_audio(path, 16000), 32000) for path in sounds.glob("*.wav")]
    everything = LogMelSpectrogram()(torch.stack(clips)).double()
    # Sums in float64 of numbers in float32.
    assert statistics.mean == pytest.approx(everything.mean().item(), rel=1e-6)
    assert statistics.std == pytest.approx(everything.std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("views.augmentations=[mixup, random_resized_crop]", "views.mixup.memory=12"),
        ("encoder.name=audio_ntt_2022", "encoder.dim=1040", "optimizer.schedule=cosine"),
        ("optimizer.name=adamw", "optimizer.clip_norm=1", "byol.ema_schedule=cosine"),
        ("run.precision=bfloat16",),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    small_config: Config, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    config = changed(small_config, tmp_path, *overrides)
    pretrain(config)
    assert all(tensor.dtype != torch.bfloat16 for tensor in tensors(config.run.dir).values())
    whole = stop_after_step_2(config)
    pretrain(config)
    assert_same_bits(whole, config.run.dir)
    rows = read_metrics(config.run.dir / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    expected = read_metrics(whole / "metrics.csv")
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]


def test_workers_and_logging_do_not_change_a_bit(trained_config: Config, tmp_path: Path) -> None:
    other = changed(
        trained_config,
        tmp_path,
        f"run.dir={tmp_path / 'other'}",
        "data.workers=1",
        "train.log_every=3",
        "checkpoint.every_steps=4",
    )
    pretrain(other)
    assert_same_bits(trained_config.run.dir, other.run.dir)


def test_seeds_change_everything(trained_config: Config, tmp_path: Path) -> None:
    other = changed(trained_config, tmp_path, f"run.dir={tmp_path / 'other'}", "run.seed=1")
    pretrain(other)
    name = "byol.encoder.features.4.weight"
    assert not torch.equal(tensors(trained_config.run.dir)[name], tensors(other.run.dir)[name])


def test_a_run_keeps_its_precision_on_another_processor(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use_processor(*, has_bfloat16: bool) -> None:
        capabilities = {"avx512_bf16": has_bfloat16}
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)

    use_processor(has_bfloat16=True)
    config = changed(small_config, tmp_path, "run.precision=auto")
    pretrain(config)
    whole = stop_after_step_2(config)
    checkpoint, _ = load_newest_checkpoint(config.run.dir)
    assert checkpoint is not None
    assert checkpoint.state["precision"] == "bfloat16"
    use_processor(has_bfloat16=False)
    pretrain(config)
    assert_same_bits(whole, config.run.dir)


@pytest.mark.gpu
def test_trains_on_the_gpu(small_config: Config, tmp_path: Path) -> None:
    model = byola_rq.load(pretrain(changed(small_config, tmp_path, "run.device=cuda")), "cuda")
    assert model(torch.randn(2, 16000), 16000).device.type == "cuda"


def test_a_finished_run_is_left_alone(trained_config: Config) -> None:
    model = (trained_config.run.dir / "encoder.safetensors").read_bytes()
    metrics = (trained_config.run.dir / "metrics.csv").read_bytes()
    assert pretrain(trained_config).read_bytes() == model
    assert (trained_config.run.dir / "metrics.csv").read_bytes() == metrics


def test_old_checkpoints_are_pruned(small_config: Config, tmp_path: Path) -> None:
    pretrain(changed(small_config, tmp_path, "checkpoint.every_steps=1", "checkpoint.keep=2"))
    kept = sorted(path.name for path in small_config.run.dir.glob("step-*"))
    assert kept == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize(
    "override",
    [
        "encoder.dim=24",
        "optimizer.lr=1e-5",
        "run.seed=7",
        "views.randomized_quantization.num_bins=8",
    ],
)
def test_another_configuration_is_refused(
    trained_config: Config, tmp_path: Path, override: str
) -> None:
    before = {
        path: path.read_bytes() for path in trained_config.run.dir.rglob("*") if path.is_file()
    }
    key, _, _ = override.partition("=")
    with refused(CheckpointError, "different", trained_config.run.dir, key=key):
        pretrain(changed(trained_config, tmp_path, override))
    after = {
        path: path.read_bytes() for path in trained_config.run.dir.rglob("*") if path.is_file()
    }
    assert before == after


def test_a_run_can_be_made_longer_where_no_schedule_minds(
    trained_config: Config, tmp_path: Path
) -> None:
    longer = changed(trained_config, tmp_path, "train.max_steps=6", "checkpoint.every_steps=2")
    pretrain(longer)
    whole = changed(longer, tmp_path, f"run.dir={tmp_path / 'whole'}")
    pretrain(whole)
    assert_same_bits(longer.run.dir, whole.run.dir)
    place = f"run.dir={tmp_path / 'cosine'}"
    scheduled = changed(longer, tmp_path, place, "optimizer.schedule=cosine", "train.max_steps=1")
    pretrain(scheduled)
    with refused(CheckpointError, "different", scheduled.run.dir, key="train.max_steps"):
        pretrain(changed(scheduled, tmp_path, "train.max_steps=8"))


def test_other_clips_are_refused(trained_config: Config, tmp_path: Path, sounds: Path) -> None:
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for path in sorted(sounds.glob("*.wav"))[:10]:
        shutil.copy(path, fewer)
    with refused(CheckpointError, "different", trained_config.run.dir, key="data.source"):
        pretrain(changed(trained_config, tmp_path, f"data.source={fewer}"))


def pcm_clips(sounds: Path) -> list[np.ndarray]:
    """Clips as 16-bit samples at 16 kHz, some of them shorter than a segment."""
    waveforms = [read_audio(path, 16000).numpy() for path in sorted(sounds.glob("*.wav"))]
    clips = [np.round(waveform * 32767).astype(np.int16) for waveform in waveforms]
    return [clip[:9000] if number % 5 == 0 else clip for number, clip in enumerate(clips)]


@pytest.fixture
def packed_config(small_config: Config, tmp_path: Path, sounds: Path) -> Config:
    """`small_config`, on 24 clips in six shards."""
    folder = pack(tmp_path / "packed", pcm_clips(sounds), clips_per_shard=4)
    return changed(small_config, tmp_path, f"data.source={folder}")


def test_a_packed_corpus_trains_to_the_bits_of_its_clips(
    packed_config: Config, tmp_path: Path, sounds: Path
) -> None:
    pretrain(packed_config)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for number, clip in enumerate(pcm_clips(sounds)):
        soundfile.write(folder / f"{number:02d}.wav", clip, 16000, subtype="PCM_16")
    unpacked = changed(
        packed_config, tmp_path, f"data.source={folder}", f"run.dir={tmp_path / 'unpacked run'}"
    )
    pretrain(unpacked)
    assert_same_bits(packed_config.run.dir, unpacked.run.dir)


def test_windows_are_resumed_too(packed_config: Config, tmp_path: Path) -> None:
    windows = ("data.shuffle=windows", "data.window_shards=2", "train.batch_size=5")
    full = changed(packed_config, tmp_path, *windows[2:], f"run.dir={tmp_path / 'full'}")
    stopped = changed(packed_config, tmp_path, *windows, f"run.dir={tmp_path / 'stopped'}")
    pretrain(full)
    pretrain(stopped)
    whole = stop_after_step_2(stopped)
    pretrain(changed(stopped, tmp_path, "data.workers=1"))
    assert_same_bits(whole, stopped.run.dir)
    name = "byol.encoder.features.4.weight"
    assert not torch.equal(tensors(full.run.dir)[name], tensors(whole)[name])
    with refused(CheckpointError, "different", stopped.run.dir, key="data.window_shards"):
        pretrain(changed(stopped, tmp_path, "data.window_shards=3"))
    # Where there are no windows, their size changes nothing.
    pretrain(changed(full, tmp_path, "data.window_shards=3"))


def test_windows_need_shards(small_config: Config, tmp_path: Path) -> None:
    with refused(CorpusError, "unsupported", key="data.shuffle", value="windows"):
        pretrain(changed(small_config, tmp_path, "data.shuffle=windows"))
    assert not small_config.run.dir.exists()


def test_another_packed_corpus_is_refused(
    packed_config: Config, tmp_path: Path, sounds: Path
) -> None:
    pretrain(packed_config)
    (tmp_path / "packed").rename(tmp_path / "moved")
    moved = changed(packed_config, tmp_path, f"data.source={tmp_path / 'moved'}")
    pretrain(moved)
    clips = pcm_clips(sounds)
    clips[7] = clips[7] ^ 1
    other = pack(tmp_path / "other", clips, clips_per_shard=4)
    with refused(CheckpointError, "different", packed_config.run.dir, key="data.source"):
        pretrain(changed(packed_config, tmp_path, f"data.source={other}"))


def test_packing_is_advised_once(
    packed_config: Config,
    small_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("byola_rq.train.meter.MEASURED_BATCHES", 2)
    monkeypatch.setattr("byola_rq.train.meter.NOTABLE_SHARE", 0.0)
    line = "`byola-rq prepare`"
    longer = changed(small_config, tmp_path, "train.max_steps=6")
    pretrain(longer)
    assert capfd.readouterr().err.count(line) == 1
    # A resumed run measures its own first batches: here there are two, then two more.
    shutil.rmtree(longer.run.dir / "step-00000006")
    pretrain(longer)
    assert capfd.readouterr().err.count(line) == 0
    shutil.rmtree(longer.run.dir / "step-00000006")
    shutil.rmtree(longer.run.dir / "step-00000004")
    pretrain(longer)
    assert capfd.readouterr().err.count(line) == 1
    pretrain(changed(packed_config, tmp_path, f"run.dir={tmp_path / 'p'}"))
    assert capfd.readouterr().err.count(line) == 0


def test_a_foreign_directory_is_refused(small_config: Config) -> None:
    small_config.run.dir.mkdir()
    (small_config.run.dir / "thesis.tex").write_text("do not touch")
    with refused(CheckpointError, "exists", small_config.run.dir, value="thesis.tex"):
        pretrain(small_config)
    assert [path.name for path in small_config.run.dir.iterdir()] == ["thesis.tex"]


def test_a_damaged_checkpoint_is_passed_over_and_written_again(trained_config: Config) -> None:
    newest = trained_config.run.dir / "step-00000004"
    (newest / "model.safetensors").unlink()
    pretrain(trained_config)
    assert find_damage(newest) is None


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(
    small_config: Config, tmp_path: Path
) -> None:
    # Its first step makes weights so large that the second and all after it overflow.
    config = changed(
        small_config,
        tmp_path,
        "optimizer.lr=1e37",
        "train.max_steps=20",
        "train.log_every=4",
        "checkpoint.every_steps=1",
    )
    with refused(TrainingError, "diverged", config.run.dir, value=10) as caught:
        pretrain(config)
    assert "skipped_steps.csv" in str(caught.value)
    # None of them became a checkpoint, and so pushed no good one out.
    assert [path.name for path in config.run.dir.glob("step-*")] == ["step-00000001"]
    weights = load_file(config.run.dir / "step-00000001" / "model.safetensors")
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights.values())
    with (config.run.dir / "skipped_steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = sorted({int(row["step"]) for row in rows})
    assert steps == list(range(2, 12))
    assert len(rows) == 10 * 8
    names = {path.name for path in config.data.sources[0].glob("*.wav")}
    assert {Path(row["clip"]).name for row in rows} <= names
    assert {row["is_finite"] for row in rows} == {"1"}


def test_silence_cannot_be_learned_from(small_config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "silence"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, np.zeros(20000), 16000)
    with refused(CorpusError, "empty", folder):
        pretrain(changed(small_config, tmp_path, f"data.source={folder}"))


def test_one_clip_is_not_a_corpus(small_config: Config, tmp_path: Path, sounds: Path) -> None:
    clip = sorted(sounds.glob("*.wav"))[0]
    with refused(CorpusError, "too-short", clip, value=1):
        pretrain(changed(small_config, tmp_path, f"data.source={clip}"))
    assert not small_config.run.dir.exists()


def test_export_takes_the_newest_checkpoint(trained_run: Path, tmp_path: Path) -> None:
    model = export_run(trained_run, tmp_path / "m.safetensors").read_bytes()
    assert model == (trained_run / "encoder.safetensors").read_bytes()
    with refused(CheckpointError, "missing", tmp_path / "nowhere"):
        export_run(tmp_path / "nowhere", tmp_path / "m.safetensors")


def test_a_torn_row_of_metrics_is_dropped(trained_config: Config) -> None:
    path = trained_config.run.dir / "metrics.csv"
    with path.open("a") as file:
        file.write("5,1.6")
    assert [row["step"] for row in read_metrics(path)] == ["1", "2", "3", "4"]
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    path.write_text(whole + whole.splitlines()[-1])  # torn within its last number
    assert len(read_metrics(path)) == 4
    path.write_text("a,b\n1,2\n")
    with refused(CheckpointError, "malformed", path, value=["a", "b"]):
        read_metrics(path)
    with path.open() as file:
        assert len(list(csv.reader(file))) == 2


def test_embeddings_that_collapse_are_warned_of_once(
    small_config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pretrain(small_config)
    rows = read_metrics(small_config.run.dir / "metrics.csv")
    assert all(1 < float(row["effective_rank"]) <= 7 for row in rows)  # batches of 8
    shutil.rmtree(small_config.run.dir)
    stderr = capfd.readouterr().err
    assert "COLLAPSE" not in stderr
    assert "warning: step" not in stderr
    # What a healthy run has counts as collapsed.
    monkeypatch.setattr("byola_rq.train.collapse.MIN_RELATIVE_STD", 10.0)
    pretrain(small_config)
    stderr = capfd.readouterr().err
    assert stderr.count("warning: step 1: ") == 1
    assert stderr.count("warning: step") == 1
    assert "  COLLAPSE  " in stderr  # beside the bar's count
