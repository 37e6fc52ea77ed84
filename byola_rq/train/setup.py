"""Start of a run, the same in all ranks: its clips, and its newest checkpoint or new networks."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import Config
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.device_batches import RING, DeviceBatches
from byola_rq.corpus.loading import default_num_workers, load_batches
from byola_rq.corpus.order import ClipOrder, IntArray, StepSampler, WindowOrder
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.packed_format import is_packed
from byola_rq.corpus.read_ahead import read_windows_ahead
from byola_rq.corpus.resident_clips import ResidentClips, place_clips
from byola_rq.corpus.segments import SegmentCorpus, open_clips
from byola_rq.errors import ConfigError, CorpusError
from byola_rq.runs.directory import locked_run, reset_run
from byola_rq.runtime.distributed import (
    is_main,
    raise_on_all_ranks,
    rank,
    world_size,
)
from byola_rq.runtime.memory import keep_freed_memory
from byola_rq.runtime.progress import log
from byola_rq.sources.clip_source import ClipSource
from byola_rq.train.agreement import (
    check_resumed_clips,
    check_same_clips,
    share_checkpoint,
    share_initial_weights,
    share_precision,
    share_statistics,
)
from byola_rq.train.budget import count_steps, warning_of_few_segments
from byola_rq.train.state import TrainState, build_state
from byola_rq.train.validation import RunValidation


@dataclass(frozen=True, kw_only=True)
class Run:
    """A started run, the same in all ranks.

    Args:
        state: Networks, views and optimizer, as the newest checkpoint left them.
        clips: Clips to train on.
        order: Order in which the clips are seen.
        validation: Scores the encoder at intervals.
        num_workers: Number of loader processes of each rank.
        resident: Clips in the memory of this rank's GPU; None if they are loaded in batches.
        left_out: (source, reason) of each clip that cannot be read.
    """

    state: TrainState
    clips: Clips
    order: ClipOrder
    validation: RunValidation
    num_workers: int
    resident: ResidentClips | None = None
    left_out: Sequence[tuple[ClipSource, str]] = ()

    @property
    def config(self) -> Config:
        """Configuration of the run."""
        return self.state.config

    def load_batches(self) -> DeviceBatches:
        """Load this rank's part of the remaining batches onto its device.

        Raises:
            AudioError: If neither a clip nor its neighbors can be decoded.
        """
        config, device = self.config, self.state.device
        segments, samples = _segments(config, self.clips), self._sample()
        if self.resident is not None:
            batches = self.resident.load_batches(segments, samples)
        else:
            batches = load_batches(
                segments,
                samples,
                batch_size=config.train.batch_size // world_size(),
                num_workers=self.num_workers,
                num_valid=RING if device.type == "cuda" else 0,
                device=device,
            )
        return DeviceBatches(batches, device, resident=self.resident)

    def _sample(self) -> Iterable[IntArray]:
        """Return (epoch, clip index) of the samples of each remaining step."""
        sampler = StepSampler(
            self.order,
            self.config.train.batch_size,
            first_step=self.state.step,
            num_steps=self.state.num_steps,
            part=(rank(), world_size()),
        )
        is_read = self.resident is None
        if is_read and isinstance(self.order, WindowOrder) and isinstance(self.clips, PackedClips):
            return read_windows_ahead(sampler, self.order, self.clips.paths)
        return sampler


def start_run(
    config: Config, device: torch.device, lock: contextlib.ExitStack, *, reset: bool = False
) -> Run:
    """Open the clips, and build the networks or load the newest checkpoint.

    Args:
        config: Configuration of the run.
        device: Training device of this rank.
        lock: Receives rank 0's lock on `run.dir`, which is released when `lock` is closed.
        reset: First move an existing run in `run.dir` aside.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
        ConfigError: If the processes cannot share the batch, the model of `encoder.init` does not
            match, or the clips must be resident on a GPU and cannot be.
        CheckpointError: If `run.dir` contains anything else, or a run with another configuration or
            other clips, or cannot be written; or if `encoder.init` cannot be loaded.
    """
    with raise_on_all_ranks():
        check_batch_size(config)
        clips, left_out = _open_clips(config)
    with raise_on_all_ranks():
        resident = place_clips(
            clips,
            resident=config.data.resident,
            segment_samples=config.segment_samples,
            device=device,
            source=config.data.sources[0],
        )
    with raise_on_all_ranks():
        if is_main():
            if reset and (aside := reset_run(config.run.dir)):
                log(f"{config.run.dir}: the previous run was moved to {aside}")
            lock.enter_context(locked_run(config.run.dir))
    num_workers = config.data.workers
    if num_workers == "auto":
        num_workers = default_num_workers(device, is_decoding=not isinstance(clips, PackedClips))
    validation = RunValidation(
        config, num_clips=len(clips), num_steps=count_steps(config, len(clips)), log=log
    )
    run = Run(
        state=_prepare_training(config, clips, device, num_workers),
        clips=clips,
        order=_order(config, clips),
        validation=validation,
        num_workers=0 if resident else num_workers,
        resident=resident,
        left_out=left_out,
    )
    _describe(run)
    return run


def check_batch_size(config: Config) -> None:
    """Check that the ranks can share the batch evenly.

    Raises:
        ConfigError: If their parts would differ in size, or have fewer than 2 clips.
    """
    parts = world_size() * config.train.accumulate
    if config.train.batch_size % parts or config.train.batch_size // parts < 2:
        raise ConfigError(
            f"train.batch_size must be a multiple of the {world_size()} processes x "
            f"train.accumulate = {parts}, and at least twice that; got {config.train.batch_size}",
            code="value",
            key="train.batch_size",
            value=config.train.batch_size,
        )


def _open_clips(config: Config) -> tuple[Clips, list[tuple[ClipSource, str]]]:
    """Open the clips of `data.source`; also return (source, reason) of those that cannot be read.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
    """
    sources = config.data.sources
    if config.data.shuffle == "windows" and not any(map(is_packed, sources)):
        raise CorpusError(
            f"{sources[0]}: data.shuffle must be full for a source that is not a packed corpus; "
            "got windows. Pack it first (`byola-rq prepare`)",
            code="unsupported",
            path=sources[0],
            key="data.shuffle",
            value="windows",
        )
    clips, left_out = open_clips(sources, config.frontend.sample_rate, log)
    if len(clips) < 2:
        reason = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise CorpusError(
            f"{sources[0]}: data.source must hold at least 2 clips; it has {len(clips)}{reason}",
            code="too-short",
            path=sources[0],
            key="data.source",
            value=len(clips),
        )
    return clips, left_out


def _order(config: Config, clips: Clips) -> ClipOrder:
    """Return the clip order for `data.shuffle`."""
    if config.data.shuffle == "windows" and isinstance(clips, PackedClips):
        window_shards = config.data.window_shards
        return WindowOrder(clips.shard, window_shards=window_shards, seed=config.run.seed)
    return ClipOrder(len(clips), seed=config.run.seed)


def _prepare_training(
    config: Config, clips: Clips, device: torch.device, num_workers: int
) -> TrainState:
    """Build the training state, from the run's newest checkpoint if there is one.

    Raises:
        CheckpointError: If `run.dir` cannot be used, or its run had other clips; or if the model of
            `encoder.init` cannot be loaded.
        ConfigError: If that model does not match the configuration.
        CorpusError: If nothing can be learned from the clips, or the ranks' clips differ.
    """
    if device.type == "cpu":
        keep_freed_memory()
    check_same_clips(config, clips)
    checkpoint = share_checkpoint(config)
    precision = share_precision(config, checkpoint, device)
    frontend = LogMelSpectrogram(**config.frontend.model_dump()).to(device)
    encoder_weights = None
    if checkpoint is None:
        encoder_weights = share_initial_weights(config)
        corpus = _segments(config, clips)
        statistics = share_statistics(config, corpus, frontend, device, num_workers=num_workers)
    else:
        check_resumed_clips(config, clips, checkpoint)
        saved = checkpoint.state["statistics"]
        statistics = Statistics(mean=saved["mean"], std=saved["std"])
    num_steps = count_steps(config, len(clips))
    state = build_state(
        config,
        statistics,
        frontend,
        device=device,
        precision=precision,
        num_steps=num_steps,
        encoder_weights=encoder_weights,
    )
    if checkpoint is not None:
        state.load(checkpoint)
    return state


def _segments(config: Config, clips: Clips) -> SegmentCorpus:
    return SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed)


def _describe(run: Run) -> None:
    """Print a summary of the run that starts."""
    config, state, clips = run.config, run.state, run.clips
    num_parameters = sum(parameter.numel() for parameter in state.byol.encoder.parameters())
    log(
        f"{len(clips)} clips, {clips.hours:.2f} h; log-mel mean {state.statistics.mean:.3f}, "
        f"std {state.statistics.std:.3f}"
    )
    processes = f" in {world_size()} processes" if world_size() > 1 else ""
    log(
        f"{config.encoder.name}, D = {config.encoder.dim}, {num_parameters / 1e6:.1f} M weights; "
        f"{state.device.type}{processes}, {state.precision}"
    )
    if run.resident is not None:
        log(f"the clips are resident on the device: {run.resident.num_bytes / 2**20:.0f} MiB")
    elif config.data.shuffle == "windows":
        log(f"windows of {config.data.window_shards} shards, each read completely before use")
    if state.is_encoder_waiting:
        log(f"the encoder is frozen for the first {config.encoder.freeze_steps} steps")
    if not state.step and (warning := warning_of_few_segments(config, state.num_steps)):
        log(warning)
    going_on = f"resuming after step {state.step} of" if state.step else "starting"
    log(f"{config.run.dir}: {going_on} {state.num_steps} steps")
