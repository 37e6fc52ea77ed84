"""Training step: views, gradient, optimizer and target update."""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from byola_rq.corpus.segments import SegmentBatch
from byola_rq.model.objective import Objective
from byola_rq.runtime.device import float32_products
from byola_rq.runtime.distributed import all_reduce_max
from byola_rq.runtime.stages import stage
from byola_rq.train.state import TrainState


class StepOutcome(NamedTuple):
    """Results of a step for this rank's part of the batch; on the device, until the next step."""

    loss: Tensor  # detached, ()
    embedding: Tensor  # detached, (B, D)
    is_skipped: Tensor  # bool, (): a value was not finite in some rank; no weight has changed
    is_finite: Tensor  # bool, (B,): whether each clip's log-mel is finite
    views: tuple[Tensor, Tensor]  # (F, T) each, of the first clip


def train_step(state: TrainState, batch: SegmentBatch) -> StepOutcome:
    """Run one step; skip it, without waiting for the device, if loss or gradient is not finite.

    A skipped step leaves weights, optimizer, target and batch-norm statistics unchanged. The views
    remember its batch (mixup), with zeros for clips that are not finite.
    """
    state.begin_step()
    with stage("input"):
        waveform, key, _ = batch.to(state.device)  # (B, S)
    outcome = compute_step(state, waveform, key)
    state.step += 1
    return outcome


def compute_step(state: TrainState, waveform: Tensor, key: Tensor) -> StepOutcome:
    """Run the device's part of a step; independent of the host, as a CUDA graph requires.

    Args:
        state: State prepared by `TrainState.begin_step`.
        waveform: Waveforms on the device, float32 `(B, S)`.
        key: Randomness key of each segment, int64 `(B,)`, on the device.
    """
    byol, optimizer = state.byol, state.optimizer
    with torch.no_grad():
        with stage("frontend"):
            log_mel = state.statistics.standardize(state.frontend(waveform))[:, None]
            # The sum of finite log-mels is finite: they are logarithms.
            is_finite = log_mel.sum(dim=(1, 2, 3)).isfinite()  # (B,)
            log_mel = log_mel.where(is_finite[:, None, None, None], 0.0)
        with stage("views"):
            view_1, view_2 = state.views(log_mel, key)  # (B, 1, F, T) each
        batch_norms = _Snapshot(byol.buffers())
    optimizer.zero_grad(set_to_none=True)
    with float32_products(state.precision):
        loss, embedding = _accumulate_gradient(state, view_1, view_2, key)
    if state.is_encoder_waiting:  # the optimizer skips parameters without gradient
        byol.encoder.zero_grad(set_to_none=True)
    with torch.no_grad():
        with stage("optimizer"):
            norm = _clip_gradient(byol, state.config.optimizer.clip_norm)
            is_finite_everywhere = loss.isfinite() & norm.isfinite() & is_finite.all()
            is_skipped = all_reduce_max((~is_finite_everywhere).to(torch.uint8)).bool()
            # Fused optimizers read this flag on the device and skip the update, as with GradScaler.
            optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
            optimizer.step()
        with stage("EMA"):
            # After the optimizer's step, so that the target follows the updated weights.
            byol.interpolate_target(state.ema_weight * ~is_skipped)
        batch_norms.restore(is_skipped)
    return StepOutcome(loss, embedding, is_skipped, is_finite, (view_1[0, 0], view_2[0, 0]))


class _Snapshot:
    """Copy of small tensors, one buffer per dtype."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        self._groups = [(each, _joined(each)) for each in by_type.values()]

    def restore(self, is_undone: Tensor) -> None:
        """Restore the tensors if `is_undone`, a bool `()`, is true; without waiting for it."""
        for tensors, before in self._groups:
            after = torch.where(is_undone, before, _joined(tensors))
            parts = torch.split(after, [tensor.numel() for tensor in tensors])
            torch._foreach_copy_(
                tensors, [part.view_as(each) for part, each in zip(parts, tensors, strict=True)]
            )


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _accumulate_gradient(
    state: TrainState, view_1: Tensor, view_2: Tensor, key: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute loss, embeddings and gradient of a batch, one part at a time.

    The gradient is the mean over the parts: that of the whole batch, except that batch norm sees
    one part at a time.
    """
    parts = state.config.train.accumulate
    total = torch.zeros((), device=state.device)
    embeddings = []
    for number, part in enumerate(
        zip(*(each.chunk(parts) for each in (view_1, view_2, key)), strict=True), start=1
    ):
        is_last = number == parts
        # Ranks exchange gradients once per step.
        with contextlib.nullcontext() if is_last else _gradients_kept(state.network):
            is_bfloat16 = state.precision == "bfloat16"
            with (
                stage("online forward"),
                torch.autocast(state.device.type, torch.bfloat16, enabled=is_bfloat16),
            ):
                loss, embedding = state.network(*part)
            with stage("backward"):
                (loss / parts).backward()
        total += loss.detach() / parts
        embeddings.append(embedding)
    return total, torch.cat(embeddings)


def _gradients_kept(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Skip the exchange of gradients between ranks."""
    if isinstance(network, DistributedDataParallel):
        return cast(contextlib.AbstractContextManager[None], network.no_sync())
    return contextlib.nullcontext()


def _clip_gradient(byol: Objective, clip_norm: float | None) -> Tensor:
    """Clip the gradient; return its norm before, which is finite only if all squares are."""
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(byol.parameters(), clip_norm)
    return nn.utils.get_total_norm(
        [each.grad for each in byol.parameters() if each.grad is not None]
    )
