"""The training loop, in reading order."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from byola_rq.allocator import keep_freed_memory
from byola_rq.checkpoint import save_checkpoint
from byola_rq.config import Config
from byola_rq.corpus import (
    Clips,
    SegmentBatch,
    SegmentCorpus,
    StepSampler,
    default_num_workers,
    find_clips,
    load_batches,
    measure_clips,
)
from byola_rq.errors import CheckpointError, CorpusError, TrainingError
from byola_rq.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.metrics import Metrics, MetricsFile
from byola_rq.progress import ProgressBar
from byola_rq.randomness import permutation
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
    clips = _measure_corpus(config)
    num_steps = count_steps(config, len(clips))
    checkpoint, damages = open_run(config)
    for damage in damages:
        _say(f"warning: {damage}; the checkpoint before it is used")

    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed)
    workers = config.data.workers
    num_workers = default_num_workers(device) if workers == "auto" else workers
    frontend = LogMelSpectrogram(**config.frontend.model_dump()).to(device)
    if checkpoint is None:
        statistics = _measure_statistics(config, corpus, frontend, device, num_workers)
    else:
        if checkpoint.state["corpus_digest"] != clips.digest:
            raise CheckpointError(
                f"{config.run.dir}: its run had other clips than data.source has now "
                "(names or lengths differ); choose another run.dir"
            )
        statistics = Statistics(**checkpoint.state["statistics"])
    training = build_training(config, statistics, frontend, device, precision, num_steps)
    if checkpoint is not None:
        training.load(checkpoint)
    _say_what_happens(training, clips)

    sampler = StepSampler(
        len(clips),
        config.train.batch_size,
        seed=config.run.seed,
        first_step=training.step,
        num_steps=num_steps,
    )
    batches = load_batches(
        corpus, sampler, num_workers=num_workers, pin_memory=device.type == "cuda"
    )
    train(training, batches, clips)
    return export_run(config.run.dir, config.run.dir / "encoder.safetensors")


def train(training: Training, batches: Iterator[SegmentBatch], clips: Clips) -> None:
    """Run the steps that are left, with metrics and checkpoints.

    Raises:
        TrainingError: If the loss stops being finite.
    """
    config = training.config
    metrics_file = MetricsFile(config.run.dir / "metrics.csv", training.step)
    meter = _Meter(training)
    with ProgressBar("pretraining", training.num_steps, done=training.step) as bar:
        while training.step < training.num_steps:
            batch = meter.next_batch(batches)
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


class _Meter:
    """What happened since the last row of metrics; the only place that waits for the device."""

    def __init__(self, training: Training) -> None:
        self.total_loss = torch.zeros((), device=training.device)
        self.note = ""
        self._training = training
        self._step = training.step
        self._started = self._last = time.monotonic()
        self._waited = 0.0

    def next_batch(self, batches: Iterator[SegmentBatch]) -> SegmentBatch:
        started = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - started
        return batch

    def read(self, embedding: Tensor, num_clips: int) -> Metrics:
        training, step = self._training, self._training.step
        config = training.config
        num_steps = step - self._step
        loss = self.total_loss.item() / num_steps
        if not math.isfinite(loss):
            raise TrainingError(
                f"{config.run.dir}: the loss is not finite (steps {self._step + 1} to {step}); "
                "the last checkpoint is untouched. Try a lower optimizer.lr, or "
                "optimizer.clip_norm=1, in a new run.dir."
            )
        now = time.monotonic()
        metrics = Metrics(
            step=step,
            epoch=step * config.train.batch_size / num_clips,
            loss=loss,
            learning_rate=training.learning_rate(step - 1),
            ema_decay=training.ema_decay(step - 1),
            embedding_std=embedding.float().std(dim=0).mean().item(),
            segments_per_second=num_steps * config.train.batch_size / (now - self._last),
            wait_share=self._waited / (now - self._last),
            seconds=now - self._started,
        )
        self.note = f"loss {loss:.4f}  {metrics.segments_per_second:.0f} segments/s"
        self.total_loss.zero_()
        self._step, self._last, self._waited = step, now, 0.0
        return metrics


def _measure_corpus(config: Config) -> Clips:
    paths = find_clips(config.data.sources)
    with ProgressBar("reading headers", len(paths)) as bar:
        clips = measure_clips(paths, config.frontend.sample_rate, bar.advance)
    if len(clips) < 2:
        raise CorpusError(f"{paths[0]}: data.source must hold at least 2 clips; it has this one")
    return clips


def _measure_statistics(
    config: Config,
    corpus: SegmentCorpus,
    frontend: LogMelSpectrogram,
    device: torch.device,
    num_workers: int,
) -> Statistics:
    """Mean and std of the log-mel of random segments, before training starts."""
    order = permutation(len(corpus.clips), seed=config.run.seed, epoch=STATISTICS_EPOCH)
    items = [(STATISTICS_EPOCH, index) for index in order[:STATISTICS_SEGMENTS].tolist()]
    size = config.train.batch_size
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    with ProgressBar("measuring statistics", len(items)) as bar:

        def log_mels() -> Iterator[Tensor]:
            for batch in load_batches(corpus, groups, num_workers=num_workers):
                yield frontend(batch.waveform.to(device))
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
    going_on = f"going on after step {training.step} of" if training.step else "starting"
    _say(f"{config.run.dir}: {going_on} {training.num_steps} steps")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
