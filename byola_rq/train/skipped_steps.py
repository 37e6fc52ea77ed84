"""skipped_steps.csv, and checks that end a run: skips in a row, weights that differ by rank."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from byola_rq.corpus.clips import Clips
from byola_rq.corpus.order import ClipOrder, IntArray, StepSampler
from byola_rq.errors import TrainingError
from byola_rq.model.model_file import digest_weights
from byola_rq.runs.metrics import StepTable
from byola_rq.runtime.distributed import all_gather_json, error_on_all_ranks, world_size

MAX_SKIPPED_IN_A_ROW = 10


SKIPPED_COLUMNS = ("step", "clip", "is_finite")


class SkippedSteps:
    """skipped_steps.csv: the clips of every step whose loss or gradient was not finite.

    Args:
        path: Path of the file, which is created with the first skipped step.
        clips: Clips of the run.
        order: Order in which the clips are seen.
        batch_size: Number of clips in a step.
        last_step: Rows after this step are dropped; a resumed run repeats them.
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
            skipped: Steps, counted from 1, each with a flag per clip: True if its log-mel was
                finite.

        Raises:
            OSError: If the disk fails; the rows are written with the next ones.
        """
        rows: list[dict[str, Any]] = []
        for step, is_finite in skipped:
            names = self._clips.names(self._clips_of(step))
            rows += [
                {"step": step, "clip": name, "is_finite": int(each)}
                for name, each in zip(names, is_finite, strict=True)
            ]
        self._table.append(rows)

    def _clips_of(self, step: int) -> IntArray:
        sampler = StepSampler(self._order, self._batch_size, first_step=step - 1, num_steps=step)
        return next(iter(sampler))[:, 1]


class SkipsInARow:
    """Stops a run that skips too many steps in a row."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def count(self, is_skipped: Sequence[bool]) -> int:
        """Return the longest sequence of skipped steps among these and those just before."""
        longest = self._in_a_row
        for each in is_skipped:
            self._in_a_row = self._in_a_row + 1 if each else 0
            longest = max(longest, self._in_a_row)
        return longest

    def check(self, is_skipped: Sequence[bool], run_dir: Path) -> None:
        """Count the next steps, which are the same in all ranks.

        Raises:
            TrainingError: If ten steps in a row were skipped.
        """
        if (longest := self.count(is_skipped)) >= MAX_SKIPPED_IN_A_ROW:
            raise error_on_all_ranks(
                TrainingError(
                    f"{run_dir}: the loss or its gradient is not finite in {longest} steps in a "
                    "row; no weight has changed in them, skipped_steps.csv names their clips, and "
                    "the last checkpoint is untouched. Where `is_finite` is 0 the clip is broken; "
                    "else try a lower optimizer.lr, or optimizer.clip_norm=1, in a new run.dir",
                    code="diverged",
                    path=run_dir,
                    value=longest,
                )
            )


def check_same_weights(network: nn.Module, run_dir: Path) -> None:
    """Check that all ranks have the same parameters; equal gradients keep them equal bit for bit.

    Raises:
        TrainingError: If they differ: a device or a connection computes wrongly.
    """
    if world_size() == 1:
        return
    # Parameters only: batch-norm statistics may differ by rank.
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    digests = all_gather_json(digest_weights(weights))
    others = [str(number) for number, each in enumerate(digests) if each != digests[0]]
    if others:
        raise error_on_all_ranks(
            TrainingError(
                f"{run_dir}: the weights of rank {', '.join(others)} no longer equal those of "
                "rank 0: a device or connection there computes wrongly. The last checkpoint is "
                "untouched; resume from it without that device",
                code="diverged",
                path=run_dir,
                value=others,
            )
        )
