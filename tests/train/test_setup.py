"""A run whose clips lie on the device takes the same steps, to the last bit."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from byola_rq.config import Config
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.resident_clips import ResidentClips
from byola_rq.errors import ConfigError
from byola_rq.runtime.signals import Stop
from byola_rq.runtime.watchdog import Watchdog
from byola_rq.train.loop import Trainer, pretrain
from byola_rq.train.setup import Run, start_run
from tests.conftest import small_run
from tests.hand_packed import pack
from tests.refusal import refused

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Path:
    clips = [soundfile.read(path, dtype="int16")[0] for path in sorted(sounds.glob("*.wav"))]
    clips[3], clips[7] = clips[3][:9000], clips[7][:15199]  # shorter than a segment
    return pack(tmp_path_factory.mktemp("packed") / "corpus", clips, clips_per_shard=5)


def with_resident_clips(run: Run) -> Run:
    assert isinstance(run.clips, PackedClips)
    resident = ResidentClips(run.clips, run.config.segment_samples, CPU)
    return replace(run, resident=resident, num_workers=0)


@pytest.mark.parametrize("shuffle", ["full", "windows"])
def test_a_run_goes_on_to_the_same_bits(tmp_path: Path, packed: Path, shuffle: str) -> None:
    overrides = (f"data.shuffle={shuffle}", "data.window_shards=2", "data.workers=1")
    read = small_run(tmp_path / "read", packed, *overrides)
    pretrain(read)
    resident = small_run(tmp_path / "resident", packed, *overrides)
    pretrain(resident)
    # From the middle of the first epoch on, once more.
    shutil.rmtree(resident.run.dir / "step-00000004")
    with contextlib.ExitStack() as lock:
        run = with_resident_clips(start_run(resident, CPU, lock))
        assert run.state.step == 2
        Trainer(run, stop=Stop(), watchdog=Watchdog(None, resident.run.dir)).fit()
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours = (resident.run.dir / "step-00000004" / name).read_bytes()
        assert ours == (read.run.dir / "step-00000004" / name).read_bytes()


def test_clips_that_must_lie_on_a_gpu_and_cannot_cost_nothing(
    trained_config: Config, packed: Path, sounds: Path
) -> None:
    run_dir = trained_config.run.dir
    for source, code in ((packed, "missing"), (sounds, "unsupported")):
        config = small_run(run_dir, source, "data.resident=true")
        with refused(ConfigError, code, source, key="data.resident", value=True):
            pretrain(config, reset=True)
        assert (run_dir / "step-00000004").is_dir()  # not moved aside
