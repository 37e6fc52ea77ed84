"""Two independently augmented views of a log-mel batch."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from byola_rq.augment.base import Augmentation
from byola_rq.augment.crop import RandomResizedCrop
from byola_rq.augment.dacl import DACL
from byola_rq.augment.fader import RandomLinearFader
from byola_rq.augment.fused_views import FusedViews
from byola_rq.augment.mixup import Mixup
from byola_rq.augment.quantize import RandomizedQuantization
from byola_rq.augment.spec_augment import SpecAugment
from byola_rq.runtime.distributed import all_gather_rows, all_reduce_sum, world_size
from byola_rq.runtime.rng import fold_in

AUGMENTATIONS: Mapping[str, type[Augmentation[Any]]] = {
    "mixup": Mixup,
    "random_resized_crop": RandomResizedCrop,
    "randomized_quantization": RandomizedQuantization,
    "random_linear_fader": RandomLinearFader,
    "dacl": DACL,
    "spec_augment": SpecAugment,
}


class Views(nn.Module):
    """Augment each segment twice, with independent random numbers.

    Args:
        augmentations: Options by name (of `AUGMENTATIONS`), in the order of use. `mixup`, if used,
            comes first: its ring holds the inputs of the whole chain. Any of mixup, crop, fader and
            quantization, in this order, run as one GPU kernel (`fused`); otherwise each runs alone.
        post_norm: Standardize both views together by the mean and standard deviation of the 2B
            spectrograms of all ranks.

    Raises:
        ValueError: If a name is unknown or `mixup` does not come first.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695).
    """

    def __init__(self, augmentations: Mapping[str, Mapping[str, Any]], *, post_norm: bool) -> None:
        super().__init__()
        for name in augmentations:
            if name not in AUGMENTATIONS:
                known = ", ".join(AUGMENTATIONS)
                raise ValueError(f"augmentations must be among {known}; got {name!r}")
        if "mixup" in list(augmentations)[1:]:
            raise ValueError(f"mixup must come first; got {', '.join(augmentations)}")
        self.augmentations = nn.ModuleDict(
            {name: AUGMENTATIONS[name](**options) for name, options in augmentations.items()}
        )
        self.post_norm = post_norm
        chain = cast(Mapping[str, Augmentation[Any]], self.augmentations)
        self.fused = FusedViews(chain)
        for augmentation in chain.values():
            augmentation.kernels = self.fused.kernels

    def forward(self, log_mel: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Make two views of every segment.

        Args:
            log_mel: Standardized log-mel spectrograms, `(B, 1, F, T)`.
            key: One key per segment, int64 `(B,)`.

        Returns:
            Both views, `(B, 1, F, T)` each.
        """
        views = self.fused(log_mel, key)  # (2, B, 1, F, T)
        if views is None:
            views = torch.stack([self._augment(log_mel, fold_in(key, view)) for view in (1, 2)])
        if "mixup" in self.augmentations:
            # Gathered, so that the ring of each rank equals that of a single process.
            log_mel = all_gather_rows(log_mel)
        for augmentation in self.fused.augmentations.values():
            augmentation.remember(log_mel)
        if self.post_norm:
            # Standardized together, so that a difference in level between the views remains.
            views = _standardize(views)
        return views[0], views[1]

    def _augment(self, log_mel: Tensor, key: Tensor) -> Tensor:
        view = log_mel
        for name, augmentation in self.fused.augmentations.items():
            # `augment`, not `forward`, whose checks would wait for the device every step.
            view = augmentation.augment(view, fold_in(key, name))
        return view


def _standardize(x: Tensor) -> Tensor:
    """Standardize by mean and standard deviation over the elements of all ranks."""
    # Two explicit sums: torch's own standard deviation takes nine times as long on a CPU.
    count = x.numel() * world_size()
    centered = x - all_reduce_sum(x.sum()) / count
    std = (all_reduce_sum(centered.square().sum()) / (count - 1)).sqrt()
    return centered * (1 / std.clamp(min=torch.finfo(std.dtype).eps))
