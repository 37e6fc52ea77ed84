"""Both views of a batch, made by one kernel on a GPU."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from byola_rq.augment.base import Augmentation
from byola_rq.augment.fused import STEPS, launch, refusal
from byola_rq.augment.quantize import MOST_BINS, RandomizedQuantization
from byola_rq.runtime.triton import Kernels


class FusedViews:
    """A chain of augmentations that one kernel computes; its views are those of `Views`.

    What is between input and views stays in registers.

    Args:
        augmentations: By name, of which in `Views` their keys derive.

    Attributes:
        kernels: Where and whether the kernel is used; `Views` gives them to each step alone, too.
    """

    def __init__(self, augmentations: Mapping[str, Augmentation[Any]]) -> None:
        self.augmentations = dict(augmentations)
        self.kernels = Kernels("that make both views")

    def __call__(self, log_mel: Tensor, key: Tensor) -> Tensor | None:
        """Make both views of every segment.

        Args:
            log_mel: Log-mel spectrograms, `(B, 1, F, T)`, of any strides.
            key: One key per segment, int64 `(B,)`.

        Returns:
            `(2, B, 1, F, T)`; None where this chain, input or device is the plain path's. What
            keeps a GPU from using the kernel is said in a line on stderr, once.
        """
        if not self.kernels.serve(log_mel.device) or log_mel.numel() == 0:
            return None
        if reason := self._refusal(log_mel):
            self.kernels.decline(reason)
            return None
        steps, words = list(self.augmentations.values()), list(self.augmentations)
        state = {name: each for step in steps for name, each in step.prepare(log_mel).items()}
        views = self.kernels.run(
            log_mel.device, lambda: launch(steps, log_mel[:, 0], key, state=state, words=words)
        )
        return None if views is None else views[:, :, None]

    def _refusal(self, log_mel: Tensor) -> str | None:
        """Why the kernel does not take an input; None where it does."""
        steps = list(self.augmentations.values())
        names = [each.step for each in steps]
        unknown = [name for name, each in self.augmentations.items() if each.step is None]
        if any(isinstance(self.augmentations[name], RandomizedQuantization) for name in unknown):
            return f"num_bins must be at most {MOST_BINS}"
        if unknown:
            return f"{unknown[0]} is none of its steps"
        if names != [name for name in STEPS if name in names]:
            return f"its order is {', '.join(STEPS)}; got {', '.join(self.augmentations)}"
        if log_mel.ndim != 4 or log_mel.shape[1] != 1:
            return f"log-mels must be (B, 1, F, T); got {tuple(log_mel.shape)}"
        if any(getattr(each, "channel_dim", -2) != -2 for each in steps):
            return "channel_dim must be -2"
        return refusal(steps, log_mel[:, 0])
