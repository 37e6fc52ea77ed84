"""The training loop, in reading order."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.allocator import keep_freed_memory
from byola_rq.checkpoint import save_checkpoint
from byola_rq.clips import Clips
from byola_rq.config import Config
from byola_rq.corpus import SegmentBatch, SegmentCorpus, find_clips, open_packed_clips
from byola_rq.data_wait import DataWait, packing_advice
from byola_rq.decoded_clips import measure_clips
from byola_rq.errors import CheckpointError, CorpusError
from byola_rq.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.loading import default_num_workers, load_batches
from byola_rq.meter import Meter
from byola_rq.metrics import MetricsFile
from byola_rq.order import ClipOrder, IntArray, StepSampler, WindowOrder
from byola_rq.packed_clips import PackedClips
from byola_rq.progress import ProgressBar
from byola_rq.read_ahead import read_windows_ahead
from byola_rq.run_directory import export_run, open_run
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

    Writes to `run.dir`: `config.yaml` (resolved), `metrics.csv`, checkpoints `step-XXXXXXXX/`, and
    at the end `encoder.safetensors`.

    Returns:
        Path of the model file.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
        ConfigError: If the device is not there.
        CheckpointError: If `run.dir` holds something else, or a run with another configuration.
        TrainingError: If the loss stops being finite.
    """
    device = choose_device(config.run.device)
    precision = choose_precision(config.run.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    clips = _open_clips(config)
    num_steps = count_steps(config, len(clips))
    checkpoint, damages = open_run(config)
    for damage in damages:
        _say(f"warning: {damage}; the checkpoint before it is used")

    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed)
    num_workers = config.data.workers
    if num_workers == "auto":
        num_workers = default_num_workers(device, is_decoding=not isinstance(clips, PackedClips))
    frontend = LogMelSpectrogram(**config.frontend.model_dump()).to(device)
    if checkpoint is None:
        statistics = _measure_statistics(config, corpus, frontend, device, num_workers)
    else:
        if checkpoint.state["corpus_digest"] != clips.digest:
            raise CheckpointError(
                f"{config.run.dir}: its run had other clips than data.source has now "
                "(names, lengths or the packed samples differ); choose another run.dir"
            )
        statistics = Statistics(**checkpoint.state["statistics"])
    training = build_training(config, statistics, frontend, device, precision, num_steps)
    if checkpoint is not None:
        training.load(checkpoint)
    _say_what_happens(training, clips)

    batches = load_batches(
        corpus,
        _sample(config, clips, first_step=training.step, num_steps=num_steps),
        batch_size=config.train.batch_size,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
    )
    with closing(batches):
        train(training, batches, clips, DataWait(device, num_workers))
    return export_run(config.run.dir, config.run.dir / "encoder.safetensors")


def train(
    training: Training, batches: Iterator[SegmentBatch], clips: Clips, data_wait: DataWait
) -> None:
    """Run the steps that are left, with metrics and checkpoints.

    Raises:
        TrainingError: If the loss stops being finite.
    """
    config = training.config
    metrics_file = MetricsFile(config.run.dir / "metrics.csv", training.step)
    meter = Meter(training, data_wait)
    has_advised = isinstance(clips, PackedClips)
    with ProgressBar("pretraining", training.num_steps, done=training.step) as bar:
        while training.step < training.num_steps:
            batch = data_wait.next_batch(batches)
            if data_wait.share is not None and not has_advised:
                has_advised = True
                if advice := packing_advice(data_wait.share):
                    bar.say(advice)
            loss, embedding = train_step(training, batch)
            meter.total_loss += loss
            is_last = training.step == training.num_steps
            is_save_due = is_last or training.step % config.checkpoint.every_steps == 0
            if is_save_due or training.step % config.train.log_every == 0:
                metrics_file.append(meter.read(embedding, len(clips)))
            if is_save_due:
                checkpoint = training.snapshot(corpus_digest=clips.digest)
                save_checkpoint(config.run.dir, checkpoint, keep=config.checkpoint.keep)
            bar.advance(note=meter.note)


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


def _sample(
    config: Config, clips: Clips, *, first_step: int, num_steps: int
) -> StepSampler | Iterator[IntArray]:
    """(epoch, clip index) of the samples of each step, in the order that `data.shuffle` names."""
    seed, batch_size = config.run.seed, config.train.batch_size
    if config.data.shuffle == "windows" and isinstance(clips, PackedClips):
        windows = WindowOrder(clips.shard, window_shards=config.data.window_shards, seed=seed)
        sampler = StepSampler(windows, batch_size, first_step=first_step, num_steps=num_steps)
        return read_windows_ahead(sampler, windows, clips.paths)
    order = ClipOrder(len(clips), seed=seed)
    return StepSampler(order, batch_size, first_step=first_step, num_steps=num_steps)


def _measure_statistics(
    config: Config,
    corpus: SegmentCorpus,
    frontend: LogMelSpectrogram,
    device: torch.device,
    num_workers: int,
) -> Statistics:
    """Mean and std of the log-mel of random segments, before training starts."""
    order = ClipOrder(len(corpus.clips), seed=config.run.seed).epoch(STATISTICS_EPOCH)
    # In the order of the index, which is that of the disk.
    clips = np.sort(order[:STATISTICS_SEGMENTS])
    items = np.stack((np.full_like(clips, STATISTICS_EPOCH), clips), axis=1)
    size = config.train.batch_size
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    with ProgressBar("measuring statistics", len(items)) as bar:

        def log_mels() -> Iterator[Tensor]:
            batches = load_batches(corpus, groups, batch_size=size, num_workers=num_workers)
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
