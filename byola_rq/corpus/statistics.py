"""Mean and standard deviation of a corpus' log-mel, from random segments."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.config import Config
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.decoded_clips import measure_readable_clips
from byola_rq.corpus.loading import load_batches
from byola_rq.corpus.order import ClipOrder
from byola_rq.corpus.segments import SegmentCorpus, find_clips, open_packed_clips
from byola_rq.errors import CorpusError
from byola_rq.runtime.progress import ProgressBar

STATISTICS_SEGMENTS = 10_000


STATISTICS_EPOCH = -1  # its segments are those of an epoch that is never trained on


def measure_run_statistics(
    config: Config,
    clips: Clips,
    frontend: LogMelSpectrogram,
    device: torch.device,
    num_workers: int,
) -> bytes:
    """Mean and std of the log-mel of random segments, before training starts, as JSON."""
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
            return json.dumps(asdict(measure_statistics(log_mels()))).encode()
        except ValueError as error:
            if type(error) is not ValueError:
                raise  # one of ours, which names its file
            sources = ", ".join(map(str, config.data.sources))
            raise CorpusError(f"{sources}: the clips cannot be learned from: {error}") from error


SEGMENT_SECONDS = 0.95  # of which the statistics are measured: the paper's


_BATCH = 64  # segments whose log-mel is computed at once


def measure_corpus(sources: Sequence[Path]) -> Statistics:
    """Mean and std of the log-mel of random segments, as before training starts.

    Args:
        sources: As for pretraining: folders, manifests, files, or a packed corpus.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used, or all are silent.
    """
    frontend = LogMelSpectrogram()
    clips = _open_clips(sources, frontend.sample_rate)
    samples = round(SEGMENT_SECONDS * frontend.sample_rate)
    corpus = SegmentCorpus(clips, segment_samples=samples, seed=0)
    indices = np.sort(ClipOrder(len(clips), seed=0).epoch(STATISTICS_EPOCH)[:STATISTICS_SEGMENTS])

    def log_mels() -> Iterator[Tensor]:
        with ProgressBar("measuring statistics", len(indices)) as bar:
            for first in range(0, len(indices), _BATCH):
                some = indices[first : first + _BATCH]
                items = np.stack((np.full_like(some, STATISTICS_EPOCH), some), axis=1)
                yield frontend(corpus.load(items).to(torch.device("cpu")).waveform)
                bar.advance(len(some))

    try:
        return measure_statistics(log_mels())
    except ValueError as error:
        if type(error) is not ValueError:
            raise  # one of ours, which names its file
        names = ", ".join(map(str, sources))
        raise CorpusError(f"{names}: statistics cannot be measured: {error}") from error


def _open_clips(sources: Sequence[Path], sample_rate: int) -> Clips:
    packed = open_packed_clips(sources, sample_rate)
    if packed is not None:
        return packed
    found, _ = find_clips(sources)
    with ProgressBar("reading headers", len(found)) as bar:
        return measure_readable_clips(found, sample_rate, bar.advance)[0]
