"""What happened since the last row of metrics; the one place that waits for the device."""

import math
import time

import torch
from torch import Tensor

from byola_rq.data_wait import DataWait
from byola_rq.errors import TrainingError
from byola_rq.metrics import Metrics
from byola_rq.training import Training


class Meter:
    """Adds up loss, time and waiting over the steps of a run, and makes rows of metrics of them.

    Args:
        training: Whose steps they are.
        data_wait: Through which the batches are taken.
    """

    def __init__(self, training: Training, data_wait: DataWait) -> None:
        self.total_loss = torch.zeros((), device=training.device)
        self.note = ""
        self._training = training
        self._data_wait = data_wait
        self._step = training.step
        self._started = self._last = time.monotonic()
        self._waited = data_wait.seconds  # until the row before

    def read(self, embedding: Tensor, num_clips: int) -> Metrics:
        """The row of metrics of the steps since the row before.

        Args:
            embedding: Of the last step, `(B, D)`.
            num_clips: Of the corpus.

        Raises:
            TrainingError: If the loss is not finite.
        """
        training, step = self._training, self._training.step
        config = training.config
        num_steps = step - self._step
        loss = self.total_loss.item() / num_steps
        if not math.isfinite(loss):
            raise TrainingError(
                f"{config.run.dir}: the loss is not finite (steps {self._step + 1} to {step}); "
                "the last checkpoint is untouched. Try a lower optimizer.lr, or "
                "optimizer.clip_norm=1, in a new run.dir."
            )
        now = time.monotonic()
        metrics = Metrics(
            step=step,
            epoch=step * config.train.batch_size / num_clips,
            loss=loss,
            learning_rate=training.learning_rate(step - 1),
            ema_decay=training.ema_decay(step - 1),
            embedding_std=embedding.float().std(dim=0).mean().item(),
            segments_per_second=num_steps * config.train.batch_size / (now - self._last),
            wait_share=(self._data_wait.seconds - self._waited) / (now - self._last),
            seconds=now - self._started,
        )
        self.note = f"loss {loss:.4f}  {metrics.segments_per_second:.0f} segments/s"
        self.total_loss.zero_()
        self._step, self._last, self._waited = step, now, self._data_wait.seconds
        return metrics
