"""The training loop, in reading order."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.allocator import keep_freed_memory
from byola_rq.clips import Clips
from byola_rq.config import Config
from byola_rq.corpus import SegmentBatch, SegmentCorpus, find_clips, open_packed_clips
from byola_rq.data_wait import DataWait, packing_advice
from byola_rq.decoded_clips import measure_clips
from byola_rq.errors import CheckpointError, CorpusError
from byola_rq.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.interruption import (
    RUN_SIGNALS,
    Interruption,
    Stop,
    StoppedError,
    stop_on_signals,
)
from byola_rq.loading import default_num_workers, load_batches
from byola_rq.order import ClipOrder, IntArray, StepSampler, WindowOrder
from byola_rq.packed_clips import PackedClips
from byola_rq.progress import ProgressBar
from byola_rq.read_ahead import read_windows_ahead
from byola_rq.run_directory import export_run, open_run
from byola_rq.run_record import RunRecord
from byola_rq.training import (
    Training,
    build_training,
    choose_device,
    choose_precision,
    train_step,
)

STATISTICS_SEGMENTS = 10_000
STATISTICS_EPOCH = -1  # its segments are those of an epoch that is never trained on


def pretrain(config: Config) -> Path:
    """Train an encoder; run again with the same configuration, it goes on where it stopped.

    Writes to `run.dir`: `config.yaml` (resolved), `metrics.csv`, checkpoints `step-XXXXXXXX/`,
    `skipped_steps.csv` where steps had to be skipped, and at the end `encoder.safetensors`.

    SIGTERM, SIGUSR1 and the first Ctrl-C finish the step, save a checkpoint and raise; a second
    Ctrl-C ends the process at once. That holds in the main thread; elsewhere signals are left as
    they are.

    Returns:
        Path of the model file.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
        ConfigError: If the device is not there.
        CheckpointError: If `run.dir` holds something else, or a run with another configuration, or
            cannot be written at the start or the end; in between the run outlives that.
        TrainingError: If the loss or its gradient is not finite in ten steps in a row.
        StoppedError: If a signal stopped it.
    """
    try:
        with stop_on_signals(RUN_SIGNALS, second_interrupt_kills=True) as stop:
            device = choose_device(config.run.device)
            clips = _open_clips(config)
            training, num_workers = _prepare_training(config, clips, device)
            _say_what_happens(training, clips)
            order = _order(config, clips)
            batches = load_batches(
                SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed),
                _sample(training, order, clips),
                batch_size=config.train.batch_size,
                num_workers=num_workers,
                pin_memory=training.device.type == "cuda",
            )
            data_wait = DataWait(training.device, num_workers)
            with closing(batches):
                train(training, batches, clips, order, data_wait, stop)
            return export_run(config.run.dir, config.run.dir / "encoder.safetensors")
    except StoppedError as error:
        message = f"{config.run.dir}: {error}; the same command goes on"
        raise StoppedError(message, error.number) from None


def train(
    training: Training,
    batches: Iterator[SegmentBatch],
    clips: Clips,
    order: ClipOrder,
    data_wait: DataWait,
    stop: Stop,
) -> None:
    """Run the steps that are left, with metrics and checkpoints.

    Raises:
        CheckpointError: If the last checkpoint cannot be written.
        TrainingError: If too many steps in a row had to be skipped.
        StoppedError: If a signal stopped it; what can be saved is saved by then.
    """
    has_advised = isinstance(clips, PackedClips)
    with ProgressBar("pretraining", training.num_steps, done=training.step) as bar:
        record = RunRecord(training, clips, order, data_wait, bar.say)
        try:
            while training.step < training.num_steps:
                # Nothing is lost by a stop while this waits, however long a disk hangs.
                batch = data_wait.next_batch(batches)
                if data_wait.share is not None and not has_advised:
                    has_advised = True
                    if advice := packing_advice(data_wait.share):
                        bar.say(advice)
                with stop.held():
                    record.add(train_step(training, batch))
                    bar.advance(note=record.note)
        except Interruption as interruption:
            message = f"{interruption} {record.save_rest()}"
            raise StoppedError(message, interruption.number) from None


def count_steps(config: Config, num_clips: int) -> int:
    """Steps of the whole run: every clip `epochs` times, in full batches."""
    num_steps = max(config.train.epochs * num_clips // config.train.batch_size, 1)
    return min(num_steps, config.train.max_steps or num_steps)


def _open_clips(config: Config) -> Clips:
    sources, sample_rate = config.data.sources, config.frontend.sample_rate
    clips: Clips | None = open_packed_clips(sources, sample_rate)
    if clips is None:
        found, notes = find_clips(sources)
        if config.data.shuffle == "windows":
            raise CorpusError(
                f"{sources[0]}: data.shuffle must be full for a source that is no packed corpus; "
                "got windows. Pack it first (`byola-rq prepare`)"
            )
        for note in notes:
            _say(note)
        with ProgressBar("reading headers", len(found)) as bar:
            clips = measure_clips(found, sample_rate, bar.advance)
    if len(clips) < 2:
        raise CorpusError(
            f"{sources[0]}: data.source must hold at least 2 clips; it has {len(clips)}"
        )
    return clips


def _prepare_training(config: Config, clips: Clips, device: torch.device) -> tuple[Training, int]:
    """What is trained, as the run's newest checkpoint left it, and the number of loaders."""
    precision = choose_precision(config.run.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    checkpoint, damages = open_run(config)
    for damage in damages:
        _say(f"warning: {damage}; the checkpoint before it is used")
    num_workers = config.data.workers
    if num_workers == "auto":
        num_workers = default_num_workers(device, is_decoding=not isinstance(clips, PackedClips))
    frontend = LogMelSpectrogram(**config.frontend.model_dump()).to(device)
    if checkpoint is None:
        statistics = _measure_statistics(config, clips, frontend, device, num_workers)
    else:
        if checkpoint.state["corpus_digest"] != clips.digest:
            raise CheckpointError(
                f"{config.run.dir}: its run had other clips than data.source has now "
                "(names, lengths or the packed samples differ); choose another run.dir"
            )
        statistics = Statistics(**checkpoint.state["statistics"])
    num_steps = count_steps(config, len(clips))
    training = build_training(config, statistics, frontend, device, precision, num_steps)
    if checkpoint is not None:
        training.load(checkpoint)
    return training, num_workers


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
    )
    if isinstance(order, WindowOrder) and isinstance(clips, PackedClips):
        return read_windows_ahead(sampler, order, clips.paths)
    return sampler


def _measure_statistics(
    config: Config,
    clips: Clips,
    frontend: LogMelSpectrogram,
    device: torch.device,
    num_workers: int,
) -> Statistics:
    """Mean and std of the log-mel of random segments, before training starts."""
    seed, size = config.run.seed, config.train.batch_size
    order = ClipOrder(len(clips), seed=seed).epoch(STATISTICS_EPOCH)
    # In the order of the index, which is that of the disk.
    indices = np.sort(order[:STATISTICS_SEGMENTS])
    items = np.stack((np.full_like(indices, STATISTICS_EPOCH), indices), axis=1)
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=seed)
    batches = load_batches(corpus, groups, batch_size=size, num_workers=num_workers)
    with closing(batches), ProgressBar("measuring statistics", len(items)) as bar:

        def log_mels() -> Iterator[Tensor]:
            for batch in batches:
                yield frontend(batch.to(device).waveform)
                bar.advance(len(batch.key))

        try:
            return measure_statistics(log_mels())
        except ValueError as error:
            if type(error) is not ValueError:
                raise  # one of ours, which names its file
            sources = ", ".join(map(str, config.data.sources))
            raise CorpusError(f"{sources}: the clips cannot be learned from: {error}") from error


def _say_what_happens(training: Training, clips: Clips) -> None:
    config = training.config
    num_parameters = sum(parameter.numel() for parameter in training.byol.encoder.parameters())
    _say(
        f"{len(clips)} clips, {clips.hours:.2f} h; log-mel mean {training.statistics.mean:.3f}, "
        f"std {training.statistics.std:.3f}"
    )
    _say(
        f"{config.encoder.name}, D = {config.encoder.dim}, {num_parameters / 1e6:.1f} M weights; "
        f"{training.device}, {str(training.precision).removeprefix('torch.')}"
    )
    if config.data.shuffle == "windows":
        _say(f"windows of {config.data.window_shards} shards, each read whole before it is used")
    going_on = f"going on after step {training.step} of" if training.step else "starting"
    _say(f"{config.run.dir}: {going_on} {training.num_steps} steps")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
