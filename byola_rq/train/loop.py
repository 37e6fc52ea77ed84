"""The training loop, in reading order."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from byola_rq.config import Config
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.loading import load_batches, on_device
from byola_rq.corpus.order import ClipOrder, IntArray, StepSampler, WindowOrder
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.read_ahead import read_windows_ahead
from byola_rq.corpus.segments import SegmentBatch, SegmentCorpus
from byola_rq.export.run import export_run
from byola_rq.runs.directory import held_run, reset_run
from byola_rq.runtime.distributed import (
    StopVote,
    errors_shared,
    is_main,
    joined_ranks,
    num_ranks,
    raised_in_all,
    rank,
    shared,
)
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.signals import (
    RUN_SIGNALS,
    Interruption,
    Stop,
    StoppedError,
    stop_on_signals,
)
from byola_rq.runtime.stages import stage
from byola_rq.runtime.watchdog import Watchdog
from byola_rq.sources.clip_source import ClipSource
from byola_rq.train.meter import DataWait, packing_advice
from byola_rq.train.profiling import StepProfiler
from byola_rq.train.recorder import RunRecord
from byola_rq.train.setup import count_steps, open_clips, prepare_training, refuse_uneven_batch, say
from byola_rq.train.step import Training, choose_device, train_step
from byola_rq.train.validation import RunValidation


def pretrain(config: Config, *, reset: bool = False, profile: int | None = None) -> Path:
    """Train an encoder; run again with the same configuration, it goes on where it stopped.

    Under torchrun its processes share every batch; rank 0 alone writes.

    Writes to `run.dir`: `config.yaml` (resolved), `metrics.csv`, checkpoints `step-XXXXXXXX/`,
    `skipped_steps.csv` where steps had to be skipped, `quarantine.csv` where clips had to be
    replaced, and at the end `encoder.safetensors`.

    SIGTERM, SIGUSR1 and the first Ctrl-C finish the step, save a checkpoint and raise; a second
    Ctrl-C ends the process at once. That holds in the main thread; elsewhere signals are left as
    they are.

    Args:
        config: Of the run.
        reset: Move a run that is in `run.dir` aside first, to `run.dir` with a number behind it.
        profile: Say, after so many steps, where their time went; see `StepProfiler`.

    Returns:
        Path of the model file.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
        ConfigError: If the device is not there, or the processes cannot share the batch.
        CheckpointError: If `run.dir` holds something else, or a run with another configuration, or
            cannot be written at the start or the end; in between the run outlives that.
        TrainingError: If the loss or its gradient is not finite in ten steps in a row.
        LostRankError: If another process of the job ended.
        StoppedError: If a signal stopped it.
    """
    try:
        with stop_on_signals(RUN_SIGNALS, second_interrupt_kills=True) as stop:
            device = choose_device(config.run.device)
            with joined_ranks(device), contextlib.ExitStack() as held:
                # All that exchanges gradients ends with that call, before the ranks part.
                return _pretrain(config, device, stop, held, reset=reset, profile=profile)
    except StoppedError as error:
        message = f"{config.run.dir}: {error}; the same command goes on"
        raise StoppedError(message, error.number) from None


def _pretrain(
    config: Config,
    device: torch.device,
    stop: Stop,
    held: contextlib.ExitStack,
    *,
    reset: bool,
    profile: int | None,
) -> Path:
    """The run of one rank; `held` keeps the lock on `run.dir`."""
    with errors_shared():
        refuse_uneven_batch(config)
        clips, left_out = open_clips(config)
    with errors_shared():
        if is_main():
            if reset and (aside := reset_run(config.run.dir)):
                say(f"{config.run.dir}: the run that was in it is now {aside}")
            held.enter_context(held_run(config.run.dir))
    validation = RunValidation(
        config,
        num_clips=len(clips),
        num_steps=count_steps(config, len(clips)),
        say=say,
    )
    training, num_workers = prepare_training(config, clips, device)
    _say_what_happens(training, clips)
    order = _order(config, clips)
    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed)
    batches = load_batches(
        corpus,
        _sample(training, order, clips),
        batch_size=config.train.batch_size // num_ranks(),
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
    )
    data_wait = DataWait(device, num_workers)
    watchdog = Watchdog(config.run.stall_minutes, config.run.dir)
    profiler = StepProfiler(profile, device, config.run.dir, say) if profile and is_main() else None
    with contextlib.closing(batches), watchdog:
        train(
            training,
            on_device(batches, device),
            clips,
            order,
            data_wait,
            validation,
            watchdog,
            profiler,
            stop,
            left_out,
        )
    path = config.run.dir / "encoder.safetensors"
    shared(lambda: bytes(export_run(config.run.dir, path)))
    return path


def train(
    training: Training,
    batches: Iterator[SegmentBatch],
    clips: Clips,
    order: ClipOrder,
    data_wait: DataWait,
    validation: RunValidation,
    watchdog: Watchdog,
    profiler: StepProfiler | None,
    stop: Stop,
    left_out: Sequence[tuple[ClipSource, str]],
) -> None:
    """Run the steps that are left, with metrics and checkpoints.

    Raises:
        CheckpointError: If the last checkpoint cannot be written.
        TrainingError: If too many steps in a row had to be skipped.
        StoppedError: If a signal stopped it; what can be saved is saved by then.
    """
    has_advised = isinstance(clips, PackedClips)
    with ProgressBar("pretraining", training.num_steps, done=training.step) as bar:
        record = RunRecord(
            training,
            clips,
            order,
            data_wait,
            validation,
            watchdog,
            lambda: stop.number is not None,
            bar.say,
            left_out,
        )
        with stop.held():
            record.catch_up()
        vote = StopVote()
        try:
            # Several ranks stop after the same step, on which they agree.
            with (
                stop.held() if num_ranks() > 1 else contextlib.nullcontext(),
                profiler or contextlib.nullcontext(),
            ):
                while training.step < training.num_steps:
                    # Alone, nothing is lost by a stop while this waits, however long a disk hangs.
                    watchdog.beat(f"step {training.step + 1}, waiting for its data")
                    with stage("input"):
                        batch = data_wait.next_batch(batches)
                    watchdog.beat(f"step {training.step + 1}, computing and saving")
                    if data_wait.share is not None and not has_advised:
                        has_advised = True
                        if advice := packing_advice(data_wait.share):
                            bar.say(advice)
                    with stop.held():
                        record.add(train_step(training, batch), batch.replacements)
                        bar.advance(note=record.note)
                    if profiler:
                        profiler.end_step()
                    if number := vote.cast(stop.number):
                        raise Interruption(number)
                if number := vote.close(stop.number):
                    raise Interruption(number)
        except Interruption as interruption:
            stopped = StoppedError(f"{interruption} {record.save_rest()}", interruption.number)
            raise raised_in_all(stopped) from None


def _order(config: Config, clips: Clips) -> ClipOrder:
    """The order that `data.shuffle` names."""
    if config.data.shuffle == "windows" and isinstance(clips, PackedClips):
        window_shards = config.data.window_shards
        return WindowOrder(clips.shard, window_shards=window_shards, seed=config.run.seed)
    return ClipOrder(len(clips), seed=config.run.seed)


def _sample(training: Training, order: ClipOrder, clips: Clips) -> Iterable[IntArray]:
    """(epoch, clip index) of the samples of each step that is left."""
    sampler = StepSampler(
        order,
        training.config.train.batch_size,
        first_step=training.step,
        num_steps=training.num_steps,
        part=(rank(), num_ranks()),
    )
    if isinstance(order, WindowOrder) and isinstance(clips, PackedClips):
        return read_windows_ahead(sampler, order, clips.paths)
    return sampler


def _say_what_happens(training: Training, clips: Clips) -> None:
    config = training.config
    num_parameters = sum(parameter.numel() for parameter in training.byol.encoder.parameters())
    say(
        f"{len(clips)} clips, {clips.hours:.2f} h; log-mel mean {training.statistics.mean:.3f}, "
        f"std {training.statistics.std:.3f}"
    )
    processes = f" in {num_ranks()} processes" if num_ranks() > 1 else ""
    say(
        f"{config.encoder.name}, D = {config.encoder.dim}, {num_parameters / 1e6:.1f} M weights; "
        f"{training.device.type}{processes}, {str(training.precision).removeprefix('torch.')}"
    )
    if config.data.shuffle == "windows":
        say(f"windows of {config.data.window_shards} shards, each read whole before it is used")
    going_on = f"going on after step {training.step} of" if training.step else "starting"
    say(f"{config.run.dir}: {going_on} {training.num_steps} steps")
