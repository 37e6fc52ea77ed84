"""Clips in a fixed order: what every kind of them can do."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.order import IntArray


class Clips(ABC):
    """Clips in a fixed order, with their lengths in samples at one sample rate."""

    dtype: ClassVar[np.dtype[Any]]  # of a segment: int16, or float32 in [-1, 1]
    num_samples: IntArray  # (clips,)
    sample_rate: int

    def __len__(self) -> int:
        return len(self.num_samples)

    @property
    def hours(self) -> float:
        """Total length."""
        return float(self.num_samples.sum()) / self.sample_rate / 3600

    @property
    @abstractmethod
    def digest(self) -> str:
        """What tells a resumed run that its clips are the same."""

    @abstractmethod
    def fill(self, segments: npt.NDArray[Any], indices: IntArray, starts: IntArray) -> None:
        """Write a segment of each clip into `segments`.

        A clip shorter than a segment is written whole, between zeros at both ends.

        Args:
            segments: `(B, S)`, of this class' `dtype`.
            indices: Of the clips, `(B,)`.
            starts: First sample of each segment within its clip, `(B,)`; 0 for short clips.

        Raises:
            AudioError: If a clip cannot be decoded.
        """

    @abstractmethod
    def names(self, indices: IntArray) -> list[str]:
        """What a user knows clips by."""
