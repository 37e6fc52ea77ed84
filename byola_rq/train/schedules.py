"""Learning rate and EMA decay as pure functions of the step."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]


def learning_rate(
    step: int, *, peak: float, schedule: Schedule, warmup_steps: int, num_steps: int
) -> float:
    """Learning rate at a step: linear warm-up, then constant or half a cosine down to 0.

    Args:
        step: Step, 0 to `num_steps` - 1.
        peak: Learning rate at the last warm-up step.
        schedule: Schedule after the warm-up.
        warmup_steps: Number of warm-up steps; 0 for none.
        num_steps: Number of steps of the whole run.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def ema_decay(step: int, *, base: float, schedule: Schedule, num_steps: int) -> float:
    """EMA decay of the target at a step: constant, or half a cosine from `base` up to 1.

    Source: Grill et al., Bootstrap Your Own Latent (arXiv:2006.07733), section 3.3.
    """
    if schedule == "constant":
        return base
    return 1 - (1 - base) * (math.cos(math.pi * step / num_steps) + 1) / 2
