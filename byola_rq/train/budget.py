"""Length of a run, in steps and in segments."""

import math

from byola_rq.config import Config

# Of runs with 182,000, 70,000 and 24,000 segments, only the longest gave an encoder better than an
# untrained one: docs/pretraining.md, section 4.
FEW_SEGMENTS = 150_000


def count_steps(config: Config, num_clips: int) -> int:
    """Number of steps of a run: `segments` in all, or every clip `epochs` times in full batches."""
    train = config.train
    if train.segments is not None:
        return math.ceil(train.segments / train.batch_size)
    num_steps = max(train.epochs * num_clips // train.batch_size, 1)
    return min(num_steps, train.max_steps or num_steps)


def warning_of_few_segments(config: Config, num_steps: int) -> str | None:
    """Return a warning if the run is too short to be useful, else None."""
    num_segments = num_steps * config.train.batch_size
    if num_segments >= FEW_SEGMENTS:
        return None
    other = "the initial" if config.encoder.init else "an untrained"
    return (
        f"warning: this run has only {num_segments:,} segments (train.segments); with fewer than "
        f"{FEW_SEGMENTS:,}, it may end with an encoder worse than {other} one (docs/pretraining.md)"
    )
