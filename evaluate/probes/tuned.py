"""Encoder with a linear layer: its clips, training crops and scores."""

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
    """Clips that an encoder is fine-tuned on.

    Attributes:
        batches: Loads the standardized log-mels of any clips of the task.
        targets: Targets of all clips of the task: class indices, `(N,)`, or bool `(N, C)`.
        train: Positions of the training clips.
        valid: Positions of the validation clips.
        silence: Standardized log-mel value of digital silence.
    """

    batches: Batches
    targets: Labels | Flags
    train: Labels
    valid: Labels
    silence: float


class Classifier(nn.Module):
    """Encoder, batch norm of its embeddings `(B, D)` without affine weights, linear layer."""

    def __init__(self, encoder: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm1d(layer.in_features, affine=False)
        self.layer = layer

    def forward(self, log_mel: Tensor) -> Tensor:
        """Map standardized log-mels `(B, 1, F, T)` to logits `(B, K)`."""
        logits: Tensor = self.layer(self.norm(self.encoder(log_mel)))
        return logits


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned:
    """Fine-tuned encoder with its layer, at its best validation epoch.

    Attributes are those of `evaluate.probes.prepared.FittedProbe`.
    """

    network: Classifier
    batches: Batches
    batch_size: int
    classes: Labels
    num_classes: int
    is_multilabel: bool
    valid_score: float  # -1 if no epoch gave finite logits
    params: dict[str, float | int]
    seed: int
    fit_seconds: float
    num_train: int
    num_valid: int
    warnings: tuple[str, ...] = ()

    def scores(self, positions: Sequence[int]) -> Features:
        """Return the probability of each class for the clips at `positions`, `(N, num_classes)`.

        -inf for a class without training clips.
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
    """Crop each clip at random: `(B, 1, F, T)` -> `(B, 1, F, num_frames)`.

    A crop starts at most `max_shift` of T before the clip, or ends that much after it; outside the
    clip it is silent, as is the padding of a short clip.
    """
    batch, _, bands, frames = log_mel.shape
    margin = round(max_shift * frames)
    num_starts = frames + 2 * margin - num_frames + 1
    starts = torch.from_numpy(generator.integers(num_starts, size=batch))
    index = (starts[:, None] + torch.arange(num_frames)).to(log_mel.device)  # (B, num_frames)
    padded = F.pad(log_mel, (margin, margin), value=silence)
    return padded.gather(-1, index[:, None, None].expand(-1, 1, bands, -1))


def set_momentum(network: nn.Module, momentum: float) -> None:
    """Set the momentum of all batch norms: the weight of the next batch in running statistics.

    With 1 / step at first, running statistics are those of the task from the first step on;
    statistics of pretraining, or initial zeros and ones, would spoil early validation.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = momentum


@torch.no_grad()
def score_clips(
    network: Classifier, batches: Iterator[tuple[list[int], Tensor]]
) -> npt.NDArray[np.float32]:
    """Return the logits of all clips of `batches`, `(N, K)`."""
    network.eval()
    scores: npt.NDArray[np.float32] = np.concatenate(
        [network(log_mel).float().cpu().numpy() for _, log_mel in batches]
    )
    return scores
