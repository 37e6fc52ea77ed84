"""A clip's segment and its two views, as training would make them, in one picture."""

from pathlib import Path

import torch

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.augment.views import Views
from byola_rq.config import Config
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.segments import SegmentCorpus
from byola_rq.listen.augmented import own_statistics
from byola_rq.plots.spectrograms import save_views_picture
from byola_rq.plots.style import plain
from byola_rq.runtime.progress import log
from byola_rq.sources.clip_source import ClipSource


def draw_preview(config: Config, clip: Path, picture: Path) -> None:
    """Draw the segment that the first epoch would cut from `clip`, and its two views.

    The segment is standardized by its own mean and std: there is no corpus here. A mixup ring is
    empty here, so mixup shows the segment as it is. Of a segment that is digital silence, a line
    says so.

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
    log_mel = own_statistics(log_mel).standardize(log_mel)
    if not batch.waveform.any():
        log(f"{clip}: the segment drawn is digital silence; another run.seed draws another")
    with torch.no_grad():
        view_1, view_2 = Views(config.views.chain(), post_norm=config.views.post_norm)(
            log_mel, batch.key
        )
    save_views_picture(
        picture,
        log_mel[0, 0],
        (view_1[0, 0], view_2[0, 0]),
        frontend,
        title=f"{plain(clip.name)}: {', '.join(config.views.augmentations)}, "
        f"seed {config.run.seed}",
    )
