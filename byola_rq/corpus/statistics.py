"""Mean and standard deviation of a corpus's log-mel, from random segments."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.corpus.loading import CPU, load_batches
from byola_rq.corpus.order import ClipOrder
from byola_rq.corpus.segments import SegmentCorpus, open_clips
from byola_rq.errors import CorpusError
from byola_rq.runtime.progress import ProgressBar, log

STATISTICS_SEGMENTS = 10_000
STATISTICS_EPOCH = -1  # an epoch that is never used for training
SEGMENT_SECONDS = 0.95  # as in the paper


def measure_corpus(
    corpus: SegmentCorpus,
    frontend: LogMelSpectrogram,
    *,
    sources: Sequence[Path],
    device: torch.device = CPU,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Statistics:
    """Measure mean and std of the log-mel of 10,000 random segments, at most one per clip.

    Args:
        corpus: Corpus to measure; its seed selects the segments.
        frontend: Frontend on `device`.
        sources: Sources of the corpus, named in errors.
        device: Device that computes the log-mels.
        batch_size: Segments per batch.
        num_workers: Number of processes that read ahead.

    Raises:
        AudioError: If clips cannot be decoded.
        CorpusError: If all segments are silent.
    """
    order = ClipOrder(len(corpus.clips), seed=corpus.seed).epoch(STATISTICS_EPOCH)
    # In the order of the index, so that the disk is read sequentially.
    indices = np.sort(order[:STATISTICS_SEGMENTS])
    items = np.stack((np.full_like(indices, STATISTICS_EPOCH), indices), axis=1)
    groups = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    batches = load_batches(corpus, groups, batch_size=batch_size, num_workers=num_workers)
    with closing(batches), ProgressBar("measuring statistics", len(items)) as bar:

        def log_mels() -> Iterator[Tensor]:
            for batch in batches:
                yield frontend(batch.to(device).waveform)
                bar.advance(len(batch.key))

        try:
            return measure_statistics(log_mels())
        except ValueError as error:
            if type(error) is not ValueError:
                raise  # a ByolaRQError, which names its file
            names = ", ".join(map(str, sources))
            message = f"{names}: the clips cannot be used for training: {error}"
            raise CorpusError(message, code="empty", path=sources[0]) from error


def measure_sources(sources: Sequence[Path]) -> Statistics:
    """Measure folders, manifests, files or packed corpora with the paper's frontend.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used, or all are silent.
    """
    frontend = LogMelSpectrogram()
    clips, _ = open_clips(sources, frontend.sample_rate, log)
    segment_samples = round(SEGMENT_SECONDS * frontend.sample_rate)
    corpus = SegmentCorpus(clips, segment_samples=segment_samples, seed=0)
    return measure_corpus(corpus, frontend, sources=sources)
