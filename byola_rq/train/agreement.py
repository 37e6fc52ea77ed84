"""Agreement of all ranks on clips, checkpoint, weights, precision and statistics."""

import json
from dataclasses import asdict
from typing import cast

import torch
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import Config
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.segments import SegmentCorpus
from byola_rq.corpus.statistics import measure_corpus
from byola_rq.errors import CheckpointError, CorpusError
from byola_rq.runs.checkpoint import Checkpoint
from byola_rq.runs.directory import open_run
from byola_rq.runtime.device import Precision, choose_precision
from byola_rq.runtime.distributed import (
    all_gather_json,
    broadcast_bytes,
    error_on_all_ranks,
    world_size,
)
from byola_rq.runtime.progress import log
from byola_rq.train.initial_weights import read_initial_weights


def check_same_clips(config: Config, clips: Clips) -> None:
    """Check that all ranks have the same clips.

    Raises:
        CorpusError: If a rank's clips differ from those of rank 0.
    """
    digests = all_gather_json(clips.digest)
    if len(set(digests)) > 1:
        different = next(number for number, each in enumerate(digests) if each != digests[0])
        sources = ", ".join(map(str, config.data.sources))
        raise error_on_all_ranks(
            CorpusError(
                f"{sources}: rank {different} finds other clips than rank 0",
                code="different",
                path=config.data.sources[0],
                value=different,
            )
        )


def check_resumed_clips(config: Config, clips: Clips, checkpoint: Checkpoint) -> None:
    """Check that the clips are those that the run started with.

    Raises:
        CheckpointError: If they differ.
    """
    if checkpoint.state["corpus_digest"] != clips.digest:
        raise error_on_all_ranks(
            CheckpointError(
                f"{config.run.dir}: the run started with other clips than data.source has now "
                "(names, lengths or the packed samples differ); choose another run.dir",
                code="different",
                path=config.run.dir,
                key="data.source",
            )
        )


def share_checkpoint(config: Config) -> Checkpoint | None:
    """Broadcast the newest checkpoint of `run.dir`; only rank 0 needs to see the folder.

    Returns:
        The checkpoint; None if there is none.

    Raises:
        CheckpointError: If `open_run` raises it.
    """
    opened: list[Checkpoint | None] = []

    def state() -> bytes:
        checkpoint, damages = open_run(config)
        for damage in damages:
            log(f"warning: {damage}; using the checkpoint before it")
        opened.append(checkpoint)
        return json.dumps(checkpoint.state if checkpoint else None).encode()

    def tensors(name: str) -> bytes:
        assert opened[0] is not None
        named = {key: each.contiguous() for key, each in getattr(opened[0], name).items()}
        return bytes_of(named)

    state_text = broadcast_bytes(state)
    if world_size() == 1 or json.loads(state_text) is None:
        return opened[0] if opened else None
    return Checkpoint(
        model=tensors_from(broadcast_bytes(lambda: tensors("model"))),
        optimizer=tensors_from(broadcast_bytes(lambda: tensors("optimizer"))),
        state=json.loads(state_text),
    )


def share_initial_weights(config: Config) -> dict[str, Tensor] | None:
    """Read the weights of `encoder.init` in rank 0, and broadcast them.

    Returns:
        The encoder's state dict; None if `encoder.init` is null.

    Raises:
        CheckpointError, ConfigError: If `read_initial_weights` raises it.
    """
    if config.encoder.init is None:
        return None
    return tensors_from(broadcast_bytes(lambda: bytes_of(read_initial_weights(config))))


def share_precision(
    config: Config, checkpoint: Checkpoint | None, device: torch.device
) -> Precision:
    """Choose the precision in rank 0; a resumed run keeps what `auto` chose at its start."""
    name = config.run.precision
    if name == "auto" and checkpoint is not None:
        name = checkpoint.state["precision"]
    chosen = broadcast_bytes(lambda: choose_precision(name, device).encode()).decode()
    return cast(Precision, chosen)


def share_statistics(
    config: Config,
    corpus: SegmentCorpus,
    frontend: LogMelSpectrogram,
    device: torch.device,
    *,
    num_workers: int,
) -> Statistics:
    """Measure mean and std in rank 0 alone; split among ranks, their last bits would differ.

    Raises:
        CorpusError, AudioError: If `measure_corpus` raises it.
    """

    def measure() -> bytes:
        measured = measure_corpus(
            corpus,
            frontend,
            sources=config.data.sources,
            device=device,
            batch_size=config.train.batch_size,
            num_workers=num_workers,
        )
        return json.dumps(asdict(measured)).encode()

    return Statistics(**json.loads(broadcast_bytes(measure)))
