"""An encoder behind a linear layer: its clips, its training crops, and what it says of others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from torch import Tensor, nn

from evaluate.probes.prepared import Flags, Labels
from evaluate.probes.scaling import Features

# Positions of clips and how many at a time -> positions and standardized log-mels (B, 1, F, T).
Batches = Callable[[Sequence[int], int], Iterator[tuple[list[int], Tensor]]]


@dataclass(frozen=True, eq=False)
class LabelledClips:
    """What an encoder is fine-tuned on.

    Attributes:
        batches: Gives the log-mels of any clips of the task.
        targets: Of all clips of the task: classes, `(N,)`, or which each has, bool `(N, C)`.
        train: Positions of the clips to train on.
        valid: Of the clips to validate on.
        silence: A standardized log-mel where there is no sound.
    """

    batches: Batches
    targets: Labels | Flags
    train: Labels
    valid: Labels
    silence: float


class Classifier(nn.Module):
    """Encoder, batch norm of its embeddings `(B, D)` without weights, linear layer `(D, K)`."""

    def __init__(self, encoder: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm1d(layer.in_features, affine=False)
        self.layer = layer

    def forward(self, log_mel: Tensor) -> Tensor:
        """Standardized log-mels `(B, 1, F, T)` to logits `(B, K)`."""
        logits: Tensor = self.layer(self.norm(self.encoder(log_mel)))
        return logits


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned:
    """A fine-tuned encoder with its layer, at its best epoch on the validation clips.

    Attributes as of `evaluate.probes.prepared.FittedProbe`.
    """

    network: Classifier
    batches: Batches
    batch_size: int
    classes: Labels
    num_classes: int
    is_multilabel: bool
    valid_score: float  # -1 where no epoch gave finite numbers
    params: dict[str, float | int]
    seed: int
    fit_seconds: float
    num_train: int
    num_valid: int
    warnings: tuple[str, ...] = ()

    def scores(self, positions: Sequence[int]) -> Features:
        """The probability of each class for the clips at `positions`, `(N, num_classes)`.

        Of a class without training clips -inf.
        """
        logits = score_clips(self.network, self.batches(positions, self.batch_size))
        scores = np.full((len(positions), self.num_classes), -np.inf, dtype=np.float32)
        scores[:, self.classes] = expit(logits) if self.is_multilabel else softmax(logits, axis=1)
        return scores


def crop_in_time(
    log_mel: Tensor,
    num_frames: int,
    max_shift: float,
    *,
    silence: float,
    generator: np.random.Generator,
) -> Tensor:
    """A random crop of each clip: `(B, 1, F, T)` -> `(B, 1, F, num_frames)`.

    It begins at most `max_shift` of T before the clip, or ends so much after it; there it is
    silent, as the end of a short clip is.
    """
    batch, _, bands, frames = log_mel.shape
    margin = round(max_shift * frames)
    num_starts = frames + 2 * margin - num_frames + 1
    starts = torch.from_numpy(generator.integers(num_starts, size=batch))
    index = (starts[:, None] + torch.arange(num_frames)).to(log_mel.device)  # (B, num_frames)
    padded = F.pad(log_mel, (margin, margin), value=silence)
    return padded.gather(-1, index[:, None, None].expand(-1, 1, bands, -1))


def set_momentum(network: nn.Module, momentum: float) -> None:
    """How much the next batch counts in the statistics that validation uses.

    One over the number of steps at first, so they are the task's from the first step on: those of
    the sounds of pretraining, or an untrained encoder's zeros and ones, would spoil early epochs.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = momentum


@torch.no_grad()
def score_clips(
    network: Classifier, batches: Iterator[tuple[list[int], Tensor]]
) -> npt.NDArray[np.float32]:
    """The logits of all clips of `batches`, `(N, K)`."""
    network.eval()
    scores: npt.NDArray[np.float32] = np.concatenate(
        [network(log_mel).float().cpu().numpy() for _, log_mel in batches]
    )
    return scores
