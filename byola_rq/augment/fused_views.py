"""Fused computation of both views of a batch in one GPU kernel."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from byola_rq.augment.base import Augmentation
from byola_rq.augment.fused import STEPS, launch, unsupported_reason
from byola_rq.augment.quantize import MAX_BINS, RandomizedQuantization
from byola_rq.runtime.triton import Kernels


class FusedViews:
    """Chain of augmentations computed by one kernel, with the same views as `Views`.

    Intermediate results stay in registers.

    Args:
        augmentations: Augmentations by name; `Views` derives their keys from these names.

    Attributes:
        kernels: Decides whether the kernel is used; `Views` shares it with each single step.
    """

    def __init__(self, augmentations: Mapping[str, Augmentation[Any]]) -> None:
        self.augmentations = dict(augmentations)
        self.kernels = Kernels("that make both views")

    def __call__(self, log_mel: Tensor, key: Tensor) -> Tensor | None:
        """Make both views of every segment.

        Args:
            log_mel: Log-mel spectrograms `(B, 1, F, T)`, of any strides.
            key: Randomness key of each segment, int64 `(B,)`.

        Returns:
            Views `(2, B, 1, F, T)`; None if the plain path has to make them. The reason is printed
            to stderr once.
        """
        if not self.kernels.serve(log_mel.device) or log_mel.numel() == 0:
            return None
        if reason := self._unsupported_reason(log_mel):
            self.kernels.decline(reason)
            return None
        steps, words = list(self.augmentations.values()), list(self.augmentations)
        state = {name: each for step in steps for name, each in step.prepare(log_mel).items()}
        views = self.kernels.run(
            log_mel.device, lambda: launch(steps, log_mel[:, 0], key, state=state, words=words)
        )
        return None if views is None else views[:, :, None]

    def _unsupported_reason(self, log_mel: Tensor) -> str | None:
        """Return why the kernel cannot take an input, `(B, 1, F, T)`; None if it can."""
        steps = list(self.augmentations.values())
        names = [each.step for each in steps]
        unknown = [name for name, each in self.augmentations.items() if each.step is None]
        if any(isinstance(self.augmentations[name], RandomizedQuantization) for name in unknown):
            return f"num_bins must be at most {MAX_BINS}"
        if unknown:
            return f"{unknown[0]} is not implemented by the kernel"
        if names != [name for name in STEPS if name in names]:
            return f"the order must be {', '.join(STEPS)}; got {', '.join(self.augmentations)}"
        if log_mel.ndim != 4 or log_mel.shape[1] != 1:
            return f"log-mels must be (B, 1, F, T); got {tuple(log_mel.shape)}"
        if any(getattr(each, "channel_dim", -2) != -2 for each in steps):
            return "channel_dim must be -2"
        return unsupported_reason(steps, log_mel[:, 0])
