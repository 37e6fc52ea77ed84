"""Interface of corpora of clips."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.order import IntArray


class Clips(ABC):
    """Clips in a fixed order, at one sample rate."""

    dtype: ClassVar[np.dtype[Any]]  # of segments: int16, or float32 in [-1, 1]
    num_samples: IntArray  # length of each clip, (clips,)
    sample_rate: int

    def __len__(self) -> int:
        return len(self.num_samples)

    @property
    def hours(self) -> float:
        """Total length in hours."""
        return float(self.num_samples.sum()) / self.sample_rate / 3600

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest by which a resumed run recognizes the same clips."""

    @abstractmethod
    def fill(self, segments: npt.NDArray[Any], indices: IntArray, starts: IntArray) -> None:
        """Write one segment of each clip into `segments`.

        A clip shorter than a segment is centered and padded with zeros.

        Args:
            segments: Output `(B, S)`, of this class's `dtype`.
            indices: Indices of the clips, `(B,)`.
            starts: First sample of each segment within its clip, `(B,)`; 0 for short clips.

        Raises:
            AudioError: If a clip cannot be decoded.
        """

    @abstractmethod
    def names(self, indices: IntArray) -> list[str]:
        """Return names of clips for messages."""
