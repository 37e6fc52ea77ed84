"""What a run starts from, the same in all ranks: its clips, its checkpoint or new networks."""

import json
import sys

import torch
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import Config
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.decoded_clips import measure_readable_clips
from byola_rq.corpus.loading import default_num_workers
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.segments import find_clips, open_packed_clips
from byola_rq.corpus.statistics import measure_run_statistics
from byola_rq.errors import CheckpointError, ConfigError, CorpusError
from byola_rq.runs.checkpoint import Checkpoint
from byola_rq.runs.directory import open_run
from byola_rq.runtime.distributed import gather_json, is_main, num_ranks, raised_in_all, shared
from byola_rq.runtime.memory import keep_freed_memory
from byola_rq.runtime.progress import ProgressBar
from byola_rq.sources.clip_source import ClipSource
from byola_rq.train.step import Training, build_training, choose_precision


def count_steps(config: Config, num_clips: int) -> int:
    """Steps of the whole run: every clip `epochs` times, in full batches."""
    num_steps = max(config.train.epochs * num_clips // config.train.batch_size, 1)
    return min(num_steps, config.train.max_steps or num_steps)


def refuse_uneven_batch(config: Config) -> None:
    """Refuse a batch that the ranks cannot share.

    Raises:
        ConfigError: If their parts would not be of one size, or have fewer than 2 clips.
    """
    parts = num_ranks() * config.train.accumulate
    if config.train.batch_size % parts or config.train.batch_size // parts < 2:
        raise ConfigError(
            f"train.batch_size must be a multiple of the {num_ranks()} processes x "
            f"train.accumulate = {parts}, and at least twice that; got {config.train.batch_size}"
        )


def open_clips(config: Config) -> tuple[Clips, list[tuple[ClipSource, str]]]:
    """The clips of `data.source`, and (source, reason) of those that cannot be read.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
    """
    sources, sample_rate = config.data.sources, config.frontend.sample_rate
    left_out: list[tuple[ClipSource, str]] = []
    clips: Clips | None = open_packed_clips(sources, sample_rate)
    if clips is None:
        found, notes = find_clips(sources)
        if config.data.shuffle == "windows":
            raise CorpusError(
                f"{sources[0]}: data.shuffle must be full for a source that is no packed corpus; "
                "got windows. Pack it first (`byola-rq prepare`)"
            )
        for note in notes:
            say(note)
        with ProgressBar("reading headers", len(found)) as bar:
            clips, left_out = measure_readable_clips(found, sample_rate, bar.advance)
    if len(clips) < 2:
        reason = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise CorpusError(
            f"{sources[0]}: data.source must hold at least 2 clips; it has {len(clips)}{reason}"
        )
    return clips, left_out


def prepare_training(config: Config, clips: Clips, device: torch.device) -> tuple[Training, int]:
    """What is trained, as the run's newest checkpoint left it, and each rank's number of loaders.

    Raises:
        CheckpointError: If `run.dir` cannot be used, or its run had other clips.
        CorpusError: If nothing can be learned from the clips, or the ranks see different ones.
    """
    if device.type == "cpu":
        keep_freed_memory()
    digests = gather_json(clips.digest)
    if len(set(digests)) > 1:
        different = next(number for number, each in enumerate(digests) if each != digests[0])
        sources = ", ".join(map(str, config.data.sources))
        raise raised_in_all(
            CorpusError(f"{sources}: rank {different} finds other clips there than rank 0")
        )
    checkpoint = _shared_checkpoint(config)
    precision = _shared_precision(config, checkpoint, device)
    num_workers = config.data.workers
    if num_workers == "auto":
        num_workers = default_num_workers(device, is_decoding=not isinstance(clips, PackedClips))
    frontend = LogMelSpectrogram(**config.frontend.model_dump()).to(device)
    if checkpoint is None:
        # By rank 0: split among them, their last bits would depend on the number of ranks.
        statistics_text = shared(
            lambda: measure_run_statistics(config, clips, frontend, device, num_workers)
        )
    else:
        if checkpoint.state["corpus_digest"] != clips.digest:
            raise raised_in_all(
                CheckpointError(
                    f"{config.run.dir}: its run had other clips than data.source has now "
                    "(names, lengths or the packed samples differ); choose another run.dir"
                )
            )
        statistics_text = json.dumps(checkpoint.state["statistics"]).encode()
    statistics = Statistics(**json.loads(statistics_text))
    num_steps = count_steps(config, len(clips))
    training = build_training(
        config, statistics, frontend, device=device, precision=precision, num_steps=num_steps
    )
    if checkpoint is not None:
        training.load(checkpoint)
    return training, num_workers


def _shared_checkpoint(config: Config) -> Checkpoint | None:
    """The newest one of `run.dir`, which rank 0 alone has to see; None where there is none."""
    opened: list[Checkpoint | None] = []

    def state() -> bytes:
        checkpoint, damages = open_run(config)
        for damage in damages:
            say(f"warning: {damage}; the checkpoint before it is used")
        opened.append(checkpoint)
        return json.dumps(checkpoint.state if checkpoint else None).encode()

    def tensors(name: str) -> bytes:
        assert opened[0] is not None
        named = {key: each.contiguous() for key, each in getattr(opened[0], name).items()}
        return bytes_of(named)

    state_text = shared(state)
    if num_ranks() == 1 or json.loads(state_text) is None:
        return opened[0] if opened else None
    return Checkpoint(
        model=tensors_from(shared(lambda: tensors("model"))),
        optimizer=tensors_from(shared(lambda: tensors("optimizer"))),
        state=json.loads(state_text),
    )


def _shared_precision(
    config: Config, checkpoint: Checkpoint | None, device: torch.device
) -> torch.dtype:
    """That of rank 0; what `auto` once was, it stays, whatever processor goes on."""
    name = config.run.precision
    if name == "auto" and checkpoint is not None:
        name = checkpoint.state.get("precision", name)
    chosen = shared(lambda: str(choose_precision(name, device)).encode()).decode()
    return torch.bfloat16 if chosen == str(torch.bfloat16) else torch.float32


def say(line: str) -> None:
    """Print a line for the user, from rank 0."""
    if is_main():
        print(line, file=sys.stderr, flush=True)
