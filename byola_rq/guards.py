"""What a run watches for: embeddings that collapse, and steps that were skipped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byola_rq.clips import Clips
from byola_rq.decoded_clips import DecodedClips
from byola_rq.errors import TrainingError
from byola_rq.metrics import StepTable
from byola_rq.model_file import digest_weights
from byola_rq.order import ClipOrder, IntArray, StepSampler
from byola_rq.packed import read_index
from byola_rq.packed_clips import PackedClips
from byola_rq.ranks import gather_json, num_ranks, raised_in_all

MAX_SKIPPED_IN_A_ROW = 10

# Below them embeddings count as collapsed. Untrained, the recipe's encoder has 0.37 and 205 of 255
# on views of real recordings, at D = 128 0.36 and 94 of 128 (November 2026).
# The first is the resolution of bfloat16: clips that differ by less are the same to the networks.
MIN_RELATIVE_STD = 2.0**-8
# Of the largest rank that the batch allows: 13 directions of 255. The smallest of the evaluated
# tasks has six classes, the largest a thousand; so few directions can serve hardly one of them.
MIN_RANK_SHARE = 0.05

RANK_ROWS = 256  # of a batch, at most: the cost of the rank grows with their cube

SKIPPED_COLUMNS = ("step", "clip", "is_finite")


@dataclass(frozen=True)
class EmbeddingHealth:
    """How much the embeddings of a batch differ; nan where they are not finite.

    Args:
        std: Standard deviation over the batch, mean over the dimensions.
        relative_std: `std` in units of the embeddings' root mean square.
        effective_rank: See `effective_rank`.
        max_rank: The largest that it can be.
    """

    std: float
    relative_std: float
    effective_rank: float
    max_rank: int

    @property
    def collapse(self) -> str | None:
        """What is wrong with them, in words; None where nothing is."""
        if self.relative_std < MIN_RELATIVE_STD:
            return (
                f"the embeddings of different clips differ by {self.relative_std:.1e} of their size"
            )
        if self.effective_rank < MIN_RANK_SHARE * self.max_rank:
            return (
                f"the embeddings differ in {self.effective_rank:.1f} directions only "
                f"(effective rank), of {self.max_rank} possible"
            )
        return None


def examine_embeddings(embedding: Tensor) -> EmbeddingHealth:
    """Measure the embeddings of a batch, `(B, D)`; waits for the device."""
    values = embedding.double().cpu()
    std = values.std(dim=0).mean().item()
    size = values.square().mean().sqrt().item()
    num_rows, dim = values[:RANK_ROWS].shape
    return EmbeddingHealth(
        std=std,
        relative_std=std / size if size > 0 else 0.0 if size == 0 else math.nan,
        effective_rank=effective_rank(values),
        max_rank=min(num_rows - 1, dim),
    )


def effective_rank(embedding: Tensor) -> float:
    """Number of directions in which the embeddings of a batch differ.

    The exponential of the entropy of the singular values, taken as shares of their sum, of at most
    256 embeddings less their mean: 1 where all lie on a line (and 1 where all are equal), at most
    min(rows - 1, D). Unlike in the source the mean is taken away: embeddings that are never
    negative point nearly the same way, healthy or not, and that would hide the rest.

    Args:
        embedding: `(B, D)`.

    Source: Roy and Vetterli, The effective rank (EUSIPCO 2007), eq. 2 to 4.
    """
    rows = embedding[:RANK_ROWS].double()
    rows = rows - rows.mean(dim=0)
    # The squares of the singular values, from the smaller of both products: ten times as fast.
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    if not gram.isfinite().all():
        return math.nan
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = singular.sum()
    if total == 0:
        return 1.0
    return float(torch.special.entr(singular / total).sum().exp())


class SkippedSteps:
    """skipped_steps.csv: the clips of every step whose loss or gradient was not finite.

    Args:
        path: Of the file; there is none before a step is skipped.
        clips: All clips.
        order: In which they are seen.
        batch_size: Of a step.
        last_step: Rows after it, which a resumed run repeats, are dropped.
    """

    def __init__(
        self, path: Path, clips: Clips, order: ClipOrder, *, batch_size: int, last_step: int
    ) -> None:
        self.path = path
        self._table = StepTable(path, SKIPPED_COLUMNS, last_step)
        self._clips = clips
        self._order = order
        self._batch_size = batch_size

    def append(self, skipped: Sequence[tuple[int, Sequence[bool]]]) -> None:
        """Write the clips of skipped steps.

        Args:
            skipped: Each step, counted from 1, and whether the log-mel of each of its clips was
                finite.

        Raises:
            OSError: If the disk refuses; the rows are written with the next ones.
        """
        rows: list[dict[str, Any]] = []
        for step, is_finite in skipped:
            names = clip_names(self._clips, self._clips_of(step))
            rows += [
                {"step": step, "clip": name, "is_finite": int(each)}
                for name, each in zip(names, is_finite, strict=True)
            ]
        self._table.append(rows)

    def _clips_of(self, step: int) -> IntArray:
        sampler = StepSampler(self._order, self._batch_size, first_step=step - 1, num_steps=step)
        return next(iter(sampler))[:, 1]


class SkipsInARow:
    """Stops a run that only skips."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def count(self, is_skipped: Sequence[bool]) -> int:
        """Longest row of skipped steps among these and those just before them."""
        longest = self._in_a_row
        for each in is_skipped:
            self._in_a_row = self._in_a_row + 1 if each else 0
            longest = max(longest, self._in_a_row)
        return longest

    def refuse_many(self, is_skipped: Sequence[bool], run_dir: Path) -> None:
        """Take the next steps in; the same in all ranks.

        Raises:
            TrainingError: If ten steps in a row were skipped.
        """
        if (longest := self.count(is_skipped)) >= MAX_SKIPPED_IN_A_ROW:
            raise raised_in_all(
                TrainingError(
                    f"{run_dir}: the loss or its gradient is not finite in {longest} steps in a "
                    "row; no weight has changed in them, skipped_steps.csv names their clips, and "
                    "the last checkpoint is untouched. Where `is_finite` is 0 the clip is broken; "
                    "else try a lower optimizer.lr, or optimizer.clip_norm=1, in a new run.dir"
                )
            )


def refuse_divergence(network: nn.Module, run_dir: Path) -> None:
    """Compare the parameters of all ranks, which the same gradients keep equal to the bit.

    Raises:
        TrainingError: If they are not: a device or a connection computes wrongly.
    """
    if num_ranks() == 1:
        return
    # Parameters alone: batch-norm statistics may be each rank's own.
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    digests = gather_json(digest_weights(weights))
    others = [str(number) for number, each in enumerate(digests) if each != digests[0]]
    if others:
        raise raised_in_all(
            TrainingError(
                f"{run_dir}: the weights of rank {', '.join(others)} are not those of rank 0 any "
                "more: a device or connection there computes wrongly. The last checkpoint is "
                "untouched; go on from it without that device"
            )
        )


def clip_names(clips: Clips, indices: IntArray) -> list[str]:
    """What a user knows clips by: the `clip_id` of packed ones, else file or tar and member."""
    if isinstance(clips, DecodedClips):
        return [str(clips.sources[index]) for index in indices]
    if isinstance(clips, PackedClips):
        names: list[str] = []
        for folder in dict.fromkeys(path.parent for path in clips.paths):
            names += read_index(folder, ["clip_id"])["clip_id"].to_pylist()
        return [names[index] for index in indices]
    return [str(index) for index in indices]
