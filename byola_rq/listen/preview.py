"""Picture of a clip's segment and its two views, as in training."""

from pathlib import Path

import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.augment.views import Views
from byola_rq.config import Config
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.segments import SegmentCorpus
from byola_rq.listen.augmented import own_statistics
from byola_rq.listen.segments import synthesize_segments
from byola_rq.plots.spectrograms import save_views_picture
from byola_rq.plots.style import plain
from byola_rq.runtime.progress import log
from byola_rq.runtime.rng import sample_keys
from byola_rq.sources.clip_source import ClipSource

_UNSEEN = {
    "imix": "the network's inputs, by mixing views with another clip of a batch, and its targets",
    "ssql": "the network",
}


def draw_preview(config: Config, clip: Path, picture: Path) -> None:
    """Draw the segment that the first epoch would cut from `clip`, and its two views.

    The segment is standardized by its own mean and std, since there is no corpus. The mixup ring is
    empty, so mixup leaves the segment as it is; dacl mixes in a synthesized sound. A line is
    printed for a segment of digital silence, and for each augmentation that does not show in a
    view.

    Raises:
        AudioError: If the clip cannot be read.
        ConfigError: If the picture cannot be written.
        MissingPackageError: If matplotlib is not installed.
    """
    clips = measure_clips([ClipSource(clip.name, file=str(clip))], config.frontend.sample_rate)
    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed)
    batch = corpus.load([(0, 0)])
    frontend = LogMelSpectrogram(**config.frontend.model_dump())
    log_mel = frontend(batch.waveform)[:, None]  # (1, 1, F, T)
    log_mel, key = own_statistics(log_mel).standardize(log_mel), batch.key
    if "dacl" in config.views.augmentations:  # it mixes with another sample of the batch
        log_mel, key = _beside_another(log_mel, key, frontend, config)
    if not batch.waveform.any():
        log(f"{clip}: the drawn segment is digital silence; another run.seed draws another one")
    for name in config.views.of_objective():
        log(f"{name} changes {_UNSEEN[name]}: the views are shown without it")
    with torch.no_grad():
        view_1, view_2 = Views(config.views.chain(), post_norm=config.views.post_norm)(log_mel, key)
    save_views_picture(
        picture,
        log_mel[0, 0],
        (view_1[0, 0], view_2[0, 0]),
        frontend,
        title=f"{plain(clip.name)}: {', '.join(config.views.augmentations)}, "
        f"seed {config.run.seed}",
    )


def _beside_another(
    log_mel: Tensor, key: Tensor, frontend: LogMelSpectrogram, config: Config
) -> tuple[Tensor, Tensor]:
    """Return the segment, `(1, 1, F, T)`, and a synthesized sound as a batch, with their keys."""
    seed = config.run.seed
    (other,) = synthesize_segments(frontend.sample_rate, config.segment_samples, num=1, seed=seed)
    log(f"dacl takes its other sample from: {other.name}")
    other_log_mel = frontend(other.waveform)[None, None]
    standardized = own_statistics(other_log_mel).standardize(other_log_mel)
    other_key = sample_keys(seed, 0, torch.tensor([1]))
    return torch.cat((log_mel, standardized)), torch.cat((key, other_key))
