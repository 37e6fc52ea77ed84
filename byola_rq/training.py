"""One training step: the networks, views and optimizer, and what a checkpoint keeps of them."""

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from byola_rq.byol import BYOL
from byola_rq.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from byola_rq.config import Config
from byola_rq.corpus import SegmentBatch
from byola_rq.encoder import build_encoder
from byola_rq.errors import CheckpointError, ConfigError
from byola_rq.frontend import LogMelSpectrogram, Statistics
from byola_rq.schedules import ema_decay, learning_rate
from byola_rq.views import Views


@dataclass
class Training:
    """Everything that a step changes or needs."""

    config: Config
    device: torch.device
    precision: torch.dtype
    frontend: LogMelSpectrogram
    statistics: Statistics
    views: Views
    byol: BYOL
    network: nn.Module  # `byol`, compiled where that was asked for
    optimizer: torch.optim.Optimizer
    num_steps: int  # of the whole run
    step: int = 0  # steps done

    def load(self, checkpoint: Checkpoint) -> None:
        """Go back to what a checkpoint holds."""
        try:
            self._modules().load_state_dict(checkpoint.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self.config.run.dir}: does not fit ({reason})") from error
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
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

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"byol": self.byol, "views": self.views})


def build_training(
    config: Config,
    statistics: Statistics,
    frontend: LogMelSpectrogram,
    device: torch.device,
    precision: torch.dtype,
    num_steps: int,
) -> Training:
    """Networks with seeded weights, views and optimizer, on the device."""
    torch.manual_seed(config.run.seed)
    encoder = build_encoder(
        config.encoder.name, dim=config.encoder.dim, n_mels=config.frontend.n_mels
    )
    byol = BYOL(
        encoder,
        projection_dim=config.byol.projection_dim,
        hidden_dim=config.byol.hidden_dim,
    )
    # Half the time of row-major convolutions on a CPU; mypy's stub lacks the argument.
    byol.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = optimizers[config.optimizer.name](
        [parameter for parameter in byol.parameters() if parameter.requires_grad],
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    return Training(
        config=config,
        device=device,
        precision=precision,
        frontend=frontend,
        statistics=statistics,
        views=Views(config.views.chain(), post_norm=config.views.post_norm).to(device),
        byol=byol,
        network=cast(nn.Module, torch.compile(byol)) if config.train.compile is True else byol,
        optimizer=optimizer,
        num_steps=num_steps,
    )


class StepOutcome(NamedTuple):
    """What a step gave; all of it still on the device."""

    loss: Tensor  # detached, ()
    embedding: Tensor  # detached, (B, D)
    is_skipped: Tensor  # bool, (): something was not finite, and no weight has changed
    is_finite: Tensor  # bool, (B,): whether a clip's log-mel is


def train_step(training: Training, batch: SegmentBatch) -> StepOutcome:
    """One step; skipped, without waiting for the device, where loss or gradient is not finite.

    A skipped step leaves weights, optimizer, target and all batch-norm statistics as they were.
    The views remember its batch (mixup), with zeros for the clips that are not finite.
    """
    config, byol = training.config, training.byol
    # Dropout's stream is a function of the step, so that resuming has no generator to restore.
    torch.manual_seed((config.run.seed << 32) + training.step)
    waveform, key = batch.to(training.device)  # (B, S)
    with torch.no_grad():
        log_mel = training.statistics.standardize(training.frontend(waveform))[:, None]
        is_finite = log_mel.flatten(1).isfinite().all(dim=1)  # (B,)
        log_mel = log_mel.where(is_finite[:, None, None, None], 0.0)
        view_1, view_2 = training.views(log_mel, key)  # (B, 1, F, T) each
        # Buffers are batch-norm statistics: some 40,000 numbers.
        buffers = [(buffer, buffer.clone()) for buffer in byol.buffers()]
    with torch.autocast(
        training.device.type, torch.bfloat16, enabled=training.precision is torch.bfloat16
    ):
        loss, embedding = training.network(view_1, view_2)
    for group in training.optimizer.param_groups:
        group["lr"] = training.learning_rate(training.step)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = _clip_gradient(byol, config.optimizer.clip_norm)
    with torch.no_grad():
        is_skipped = ~(loss.isfinite() & norm.isfinite() & is_finite.all())
        # Fused optimizers read this on the device and then write nothing; GradScaler's protocol.
        training.optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
        training.optimizer.step()
        # After the optimizer's step, so that the target follows the new weights.
        byol.update_target(training.ema_decay(training.step), is_skipped)
        for buffer, before in buffers:
            torch.where(is_skipped, before, buffer, out=buffer)
    training.step += 1
    return StepOutcome(loss.detach(), embedding, is_skipped, is_finite)


def _clip_gradient(byol: BYOL, clip_norm: float | None) -> Tensor:
    """Norm of the gradient: not finite where an element is not, or its square; without waiting."""
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(byol.parameters(), clip_norm)
    return nn.utils.get_total_norm(
        [each.grad for each in byol.parameters() if each.grad is not None]
    )


def choose_device(name: str) -> torch.device:
    """The device named; `auto` is a GPU where there is one.

    Raises:
        ConfigError: If it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"run.device: {name} is not here; torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices (`byola-rq doctor` says more)"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the networks' matrix products; `auto` is bfloat16 on a GPU that has it."""
    if name == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
