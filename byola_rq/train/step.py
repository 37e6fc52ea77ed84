"""One training step: the networks, views and optimizer, and what a checkpoint keeps of them."""

import contextlib
import importlib.metadata
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.augment.views import Views
from byola_rq.config import Config
from byola_rq.corpus.segments import SegmentBatch
from byola_rq.errors import CheckpointError
from byola_rq.model.byol import BYOL
from byola_rq.model.encoder import Encoder, build_encoder
from byola_rq.model.imix import IMix
from byola_rq.model.infonce import InfoNCE
from byola_rq.model.objective import Objective
from byola_rq.model.ssql import SSQL
from byola_rq.model.sync_batch_norm import over_all_ranks
from byola_rq.runs.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from byola_rq.runtime.device import Precision, can_compile, float32_products
from byola_rq.runtime.distributed import all_reduce_max, world_size
from byola_rq.runtime.stages import stage
from byola_rq.train.schedules import ema_decay, learning_rate


@dataclass(kw_only=True)
class TrainState:
    """Everything that a step changes or needs."""

    config: Config
    device: torch.device
    precision: Precision
    frontend: LogMelSpectrogram
    statistics: Statistics
    views: Views
    byol: Objective  # whichever the configuration names
    network: nn.Module  # `byol`, compiled where that was asked for, with its gradients averaged
    optimizer: torch.optim.Optimizer  # its learning rate is a tensor on the device
    ema_weight: Tensor  # float32 (): 1 - EMA decay of the step
    num_steps: int  # of the whole run
    step: int = 0  # steps done

    def load(self, checkpoint: Checkpoint) -> None:
        """Go back to what a checkpoint holds."""
        try:
            self._modules().load_state_dict(checkpoint.model)
            load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            reason = " ".join(str(error).split())
            message = f"{self.config.run.dir}: does not fit ({reason})"
            raise CheckpointError(message, code="different", path=self.config.run.dir) from error
        self.step = checkpoint.state["step"]

    def snapshot(self, corpus_digest: str) -> Checkpoint:
        """What a resumed run needs."""
        return Checkpoint(
            model=self._modules().state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
            state={
                "step": self.step,
                "config": self.config.model_dump(mode="json"),
                "statistics": asdict(self.statistics),
                "corpus_digest": corpus_digest,
                "num_ranks": world_size(),
                "precision": self.precision,
                "versions": {
                    name: importlib.metadata.version(name) for name in ("byola_rq", "torch")
                },
            },
        )

    def learning_rate(self, step: int) -> float:
        """Of one step."""
        options = self.config.optimizer
        return learning_rate(
            step,
            peak=options.lr,
            schedule=options.schedule,
            warmup_steps=options.warmup_steps,
            num_steps=self.num_steps,
        )

    def ema_decay(self, step: int) -> float:
        """Of the target's update after one step."""
        options = self.config.byol
        return ema_decay(
            step,
            base=options.ema_decay,
            schedule=options.ema_schedule,
            num_steps=self.num_steps,
        )

    @property
    def is_encoder_waiting(self) -> bool:
        """Whether the next step teaches the heads alone."""
        return self.step < self.config.encoder.freeze_steps

    def begin_step(self) -> None:
        """Give the device what differs from step to step, but for the batch."""
        # Dropout's stream is a function of the step, so that resuming has no generator to restore.
        torch.manual_seed((self.config.run.seed << 32) + self.step)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.learning_rate(self.step))
        self.ema_weight.fill_(1 - self.ema_decay(self.step))
        # DistributedDataParallel waits for the gradients of all that had them when it was made.
        self.byol.encoder.requires_grad_(not self.is_encoder_waiting or world_size() > 1)

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"byol": self.byol, "views": self.views})


def build_state(
    config: Config,
    statistics: Statistics,
    frontend: LogMelSpectrogram,
    *,
    device: torch.device,
    precision: Precision,
    num_steps: int,
    encoder_weights: Mapping[str, Tensor] | None = None,
) -> TrainState:
    """Networks with seeded weights, views and optimizer, on the device.

    `encoder_weights` are those that the encoder, online and target, has instead of seeded ones.
    """
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(
        config.encoder.name, dim=config.encoder.dim, n_mels=config.frontend.n_mels
    )
    if encoder_weights is not None:
        encoder.load_state_dict(encoder_weights)
    byol = build_objective(config, encoder)
    over_all_ranks(byol, sync_batch_norm=config.train.sync_batch_norm)
    is_cuda, is_cpu = device.type == "cuda", device.type == "cpu"
    # Half the time of row-major convolutions on a CPU; mypy's stub lacks the argument.
    byol.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = optimizers[config.optimizer.name](
        [parameter for parameter in byol.parameters() if parameter.requires_grad],
        # What a fused kernel reads: a GPU's float32; on a CPU all the digits that there are.
        lr=torch.tensor(
            config.optimizer.lr, device=device, dtype=torch.float64 if is_cpu else torch.float32
        ),
        weight_decay=config.optimizer.weight_decay,
        fused=True,
        capturable=is_cuda,
    )
    return TrainState(
        config=config,
        device=device,
        precision=precision,
        frontend=frontend,
        statistics=statistics,
        views=Views(config.views.chain(), post_norm=config.views.post_norm).to(device),
        byol=byol,
        network=_network(byol, is_compiled=config.train.compile and can_compile(device)),
        optimizer=optimizer,
        ema_weight=torch.zeros((), device=device),
        num_steps=num_steps,
    )


def build_objective(config: Config, encoder: Encoder) -> Objective:
    """What `objective` names, with heads of `byol` and what of `views` changes an objective."""
    of_objective = config.views.of_objective()
    options: dict[str, Any] = {
        "projection_dim": config.byol.projection_dim,
        "hidden_dim": config.byol.hidden_dim,
        "imix": IMix(**of_objective["imix"]) if "imix" in of_objective else None,
        "ssql": SSQL(**of_objective["ssql"]) if "ssql" in of_objective else None,
    }
    if config.objective.name == "byol":
        return BYOL(encoder, **options)
    return InfoNCE(encoder, temperature=config.objective.temperature, **options)


def _network(byol: Objective, *, is_compiled: bool) -> nn.Module:
    """`byol` as it is called in a step."""
    network = cast(nn.Module, torch.compile(byol)) if is_compiled else byol
    if world_size() == 1:
        return network
    # Two gradients of a kernel of one channel (SSQL's) add up to one of other strides: 576 numbers.
    warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
    with warnings.catch_warnings():
        # The argument's new name is not there in every version of torch that will do.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # Batch-norm statistics are either the same everywhere or each rank's own.
        return DistributedDataParallel(
            network, broadcast_buffers=False, gradient_as_bucket_view=True
        )


class StepOutcome(NamedTuple):
    """What a step gave for this rank's part of the batch; on the device, until the next step."""

    loss: Tensor  # detached, ()
    embedding: Tensor  # detached, (B, D)
    is_skipped: Tensor  # bool, (): something was not finite in a rank; no weight has changed
    is_finite: Tensor  # bool, (B,): whether a clip's log-mel is
    views: tuple[Tensor, Tensor]  # (F, T) each, of the first clip


def train_step(state: TrainState, batch: SegmentBatch) -> StepOutcome:
    """One step; skipped, without waiting for the device, where loss or gradient is not finite.

    A skipped step leaves weights, optimizer, target and all batch-norm statistics as they were.
    The views remember its batch (mixup), with zeros for the clips that are not finite.
    """
    state.begin_step()
    with stage("input"):
        waveform, key, _ = batch.to(state.device)  # (B, S)
    outcome = compute_step(state, waveform, key)
    state.step += 1
    return outcome


def compute_step(state: TrainState, waveform: Tensor, key: Tensor) -> StepOutcome:
    """What the device does in a step: nothing here depends on the host, as a CUDA graph needs.

    Args:
        state: Begun by `TrainState.begin_step`.
        waveform: float32 `(B, S)`, on the device.
        key: Of each segment, int64 `(B,)`, on the device.
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
    if state.is_encoder_waiting:  # without gradients the optimizer leaves it alone
        byol.encoder.zero_grad(set_to_none=True)
    with torch.no_grad():
        with stage("optimizer"):
            norm = _clip_gradient(byol, state.config.optimizer.clip_norm)
            is_finite_everywhere = loss.isfinite() & norm.isfinite() & is_finite.all()
            is_skipped = all_reduce_max((~is_finite_everywhere).to(torch.uint8)).bool()
            # Fused optimizers read this on the device and then write nothing, as with GradScaler.
            optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
            optimizer.step()
        with stage("EMA"):
            # After the optimizer's step, so that the target follows the new weights.
            byol.interpolate_target(state.ema_weight * ~is_skipped)
        batch_norms.restore(is_skipped)
    return StepOutcome(loss, embedding, is_skipped, is_finite, (view_1[0, 0], view_2[0, 0]))


class _Snapshot:
    """Small tensors as they are now, in one tensor for each of their types."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        self._groups = [(each, _joined(each)) for each in by_type.values()]

    def restore(self, is_undone: Tensor) -> None:
        """Write them back where `is_undone`, a boolean `()`, is true; without waiting for it."""
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
    """Loss and embeddings of a batch, one part after the other, and their gradient.

    The gradient is the mean of the parts' own: that of the whole batch, but for batch norm, which
    sees one part at a time.
    """
    parts = state.config.train.accumulate
    total = torch.zeros((), device=state.device)
    embeddings = []
    for number, part in enumerate(
        zip(*(each.chunk(parts) for each in (view_1, view_2, key)), strict=True), start=1
    ):
        is_last = number == parts
        # Ranks exchange gradients once a step.
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
    """Keep gradients within this rank, where there are others."""
    if isinstance(network, DistributedDataParallel):
        return cast(contextlib.AbstractContextManager[None], network.no_sync())
    return contextlib.nullcontext()


def _clip_gradient(byol: Objective, clip_norm: float | None) -> Tensor:
    """Norm of the gradient: not finite where an element is not, or its square; without waiting."""
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(byol.parameters(), clip_norm)
    return nn.utils.get_total_norm(
        [each.grad for each in byol.parameters() if each.grad is not None]
    )
