"""Mean and standard deviation of a corpus' log-mel, from random segments."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.corpus.loading import load_batches
from byola_rq.corpus.order import ClipOrder
from byola_rq.corpus.segments import SegmentCorpus, open_clips
from byola_rq.errors import CorpusError
from byola_rq.runtime.progress import ProgressBar, log

STATISTICS_SEGMENTS = 10_000
STATISTICS_EPOCH = -1  # its segments are those of an epoch that is never trained on
SEGMENT_SECONDS = 0.95  # the paper's
CPU = torch.device("cpu")


def measure_corpus(
    corpus: SegmentCorpus,
    frontend: LogMelSpectrogram,
    *,
    sources: Sequence[Path],
    device: torch.device = CPU,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Statistics:
    """Mean and std of the log-mel of 10,000 random segments, or of one of each clip, if fewer.

    Args:
        corpus: What to measure; its seed chooses the segments.
        frontend: Makes log-mels of them, on `device`.
        sources: What the corpus was opened from, named in errors.
        device: Where the log-mels are computed.
        batch_size: Segments whose log-mel is computed at once.
        num_workers: Processes that read ahead.

    Raises:
        AudioError: If clips cannot be decoded.
        CorpusError: If all segments are silent.
    """
    order = ClipOrder(len(corpus.clips), seed=corpus.seed).epoch(STATISTICS_EPOCH)
    # In the order of the index, which is that of the disk.
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
                raise  # one of ours, which names its file
            names = ", ".join(map(str, sources))
            message = f"{names}: the clips cannot be learned from: {error}"
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
