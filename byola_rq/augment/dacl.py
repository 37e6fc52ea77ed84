"""DACL: Mixup-noise, a little of another sample of the batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augment.base import Augmentation, compute_dtype
from byola_rq.runtime.distributed import all_gather_rows, rank, world_size
from byola_rq.runtime.rng import fold_in, other_rows, uniform


@dataclass(frozen=True)
class DaclNoise:
    """What each sample is mixed with.

    `share`: of the sample itself, float32 `(B,)`. `index`: row of the other one in the batch of all
    ranks, int64 `(B,)`.
    """

    share: Tensor
    index: Tensor


class DACL(Augmentation[DaclNoise]):
    """Mix each sample with another one of the batch: `l x_i + (1 - l) x_j`, l from U(`alpha`, 1).

    Linear-Mixup of the values as they come, standardized log-mels too; unlike `Mixup`, which mixes
    powers and takes earlier inputs. The other sample is any but the sample itself; it comes as far
    as the chain of views has brought it. Unlike other augmentations' the result depends on what
    else is in the batch: with several ranks on all of it, whose samples are gathered, so that each
    rank makes what one process with the whole batch would. A sample alone stays as it is.

    Args:
        alpha: Smallest share of the sample itself, within 0 to 1.

    Raises:
        ValueError: If `alpha` is not within 0 to 1.

    Source: Verma et al., Towards Domain-Agnostic Contrastive Learning (ICML 2021,
    arXiv:2011.04419), section 3; its Geometric- and Binary-Mixup (DACL+) are not here.
    """

    def __init__(self, alpha: float = 0.9) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be within 0 to 1; got {alpha}")
        self.alpha = alpha

    def draw(self, x: Tensor, key: Tensor) -> DaclNoise:
        """Draw a share and another sample for each of `x`, `(B, ..., F, T)`."""
        share = self.alpha + (1 - self.alpha) * uniform(fold_in(key, "share"))
        num = len(x)
        index = other_rows(fold_in(key, "index"), world_size() * num, first=rank() * num)
        return DaclNoise(share=share, index=index)

    def apply_parameters(self, x: Tensor, parameters: DaclNoise) -> Tensor:
        """Mix with the drawn samples."""
        values = x.to(compute_dtype(x))
        share = parameters.share.to(values.dtype).reshape(-1, *[1] * (x.ndim - 1))
        others = all_gather_rows(values)[parameters.index]
        return torch.lerp(others, values, share).to(x.dtype)
