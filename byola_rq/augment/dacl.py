"""DACL's mixup noise: blend each sample with a little of another one in the batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augment.base import Augmentation, compute_dtype
from byola_rq.runtime.distributed import all_gather_rows, rank, world_size
from byola_rq.runtime.rng import fold_in, other_rows, uniform


@dataclass(frozen=True)
class DaclNoise:
    """Mixing parameters of a batch.

    `share`: weight of the sample itself, float32 `(B,)`. `index`: row of the other sample in the
    batch of all ranks, int64 `(B,)`.
    """

    share: Tensor
    index: Tensor


class DACL(Augmentation[DaclNoise]):
    """Mix each sample with another one of the batch: `l x_i + (1 - l) x_j`, l from U(`alpha`, 1).

    Mixes values linearly as they come, including standardized log-mels; `Mixup` in contrast mixes
    powers with earlier inputs. The other sample is never the sample itself, and has passed through
    the same earlier steps of the chain. The result depends on the batch of all ranks, which is
    gathered: each rank computes what one process with the whole batch would. A batch of one sample
    is returned unchanged.

    Args:
        alpha: Smallest weight of the sample itself, 0 to 1.

    Raises:
        ValueError: If `alpha` is not within 0 to 1.

    Source: Verma et al., Towards Domain-Agnostic Contrastive Learning (ICML 2021,
    arXiv:2011.04419), section 3; its Geometric- and Binary-Mixup (DACL+) are not implemented.
    """

    def __init__(self, alpha: float = 0.9) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be within 0 to 1; got {alpha}")
        self.alpha = alpha

    def draw(self, x: Tensor, key: Tensor) -> DaclNoise:
        """Draw a weight and another sample for each of `x`, `(B, ..., F, T)`."""
        share = self.alpha + (1 - self.alpha) * uniform(fold_in(key, "share"))
        num = len(x)
        index = other_rows(fold_in(key, "index"), world_size() * num, first=rank() * num)
        return DaclNoise(share=share, index=index)

    def apply_parameters(self, x: Tensor, parameters: DaclNoise) -> Tensor:
        """Mix `x`, `(B, ..., F, T)`, with the drawn samples."""
        values = x.to(compute_dtype(x))
        share = parameters.share.to(values.dtype).reshape(-1, *[1] * (x.ndim - 1))
        others = all_gather_rows(values)[parameters.index]
        return torch.lerp(others, values, share).to(x.dtype)
