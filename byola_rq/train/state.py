"""State of a training run: networks, views and optimizer, and their checkpoint."""

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.augment.views import Views
from byola_rq.config import Config
from byola_rq.errors import CheckpointError
from byola_rq.model.byol import BYOL
from byola_rq.model.encoder import Encoder, build_encoder
from byola_rq.model.imix import IMix
from byola_rq.model.infonce import InfoNCE
from byola_rq.model.objective import Objective
from byola_rq.model.ssql import SSQL
from byola_rq.model.sync_batch_norm import over_all_ranks
from byola_rq.runs.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from byola_rq.runtime.device import Precision, can_compile
from byola_rq.runtime.distributed import world_size
from byola_rq.text.shown import one_line
from byola_rq.train.schedules import ema_decay, learning_rate


@dataclass(kw_only=True)
class TrainState:
    """State of a training run: everything that a step reads or changes."""

    config: Config
    device: torch.device
    precision: Precision
    frontend: LogMelSpectrogram
    statistics: Statistics
    views: Views
    byol: Objective  # the one that the configuration names
    network: nn.Module  # `byol`, possibly compiled, with gradients averaged over ranks
    optimizer: torch.optim.Optimizer  # its learning rate is a tensor on the device
    ema_weight: Tensor  # float32 (): 1 - EMA decay of the step
    num_steps: int  # of the whole run
    step: int = 0  # steps done

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint."""
        try:
            self._modules().load_state_dict(checkpoint.model)
            load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            reason = one_line(error)
            message = f"{self.config.run.dir}: the checkpoint does not fit ({reason})"
            raise CheckpointError(message, code="different", path=self.config.run.dir) from error
        self.step = checkpoint.state["step"]

    def snapshot(self, corpus_digest: str) -> Checkpoint:
        """Return the checkpoint from which a run resumes."""
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
        """Learning rate at `step`."""
        options = self.config.optimizer
        return learning_rate(
            step,
            peak=options.lr,
            schedule=options.schedule,
            warmup_steps=options.warmup_steps,
            num_steps=self.num_steps,
        )

    def ema_decay(self, step: int) -> float:
        """EMA decay of the target's update at `step`."""
        options = self.config.byol
        return ema_decay(
            step,
            base=options.ema_decay,
            schedule=options.ema_schedule,
            num_steps=self.num_steps,
        )

    @property
    def is_encoder_waiting(self) -> bool:
        """True if the next step trains only the heads."""
        return self.step < self.config.encoder.freeze_steps

    def begin_step(self) -> None:
        """Write the values that change from step to step to the device, except the batch."""
        # Dropout is seeded by the step, so that resuming has no generator state to restore.
        torch.manual_seed((self.config.run.seed << 32) + self.step)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.learning_rate(self.step))
        self.ema_weight.fill_(1 - self.ema_decay(self.step))
        # DistributedDataParallel waits for the gradients of all parameters that required one at
        # first.
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
    """Build networks with seeded weights, views and optimizer on the device.

    `encoder_weights` replace the encoder's seeded weights, online and target.
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
    # On a CPU, half the time of row-major convolutions; mypy's stub lacks the argument.
    byol.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = optimizers[config.optimizer.name](
        [parameter for parameter in byol.parameters() if parameter.requires_grad],
        # Fused kernels read float32 on a GPU; on a CPU float64 keeps all digits.
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
    """Build the objective of `objective`, with the options of `byol` and of `views`."""
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
    """Wrap `byol` for training: compile it and average its gradients, as needed."""
    network = cast(nn.Module, torch.compile(byol)) if is_compiled else byol
    if world_size() == 1:
        return network
    # Two gradients of a one-channel kernel (SSQL) sum to a tensor of other strides: 576 numbers.
    warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
    with warnings.catch_warnings():
        # Not all supported versions of torch know the argument's new name.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # Batch-norm statistics are either equal in all ranks or separate on purpose.
        return DistributedDataParallel(
            network, broadcast_buffers=False, gradient_as_bucket_view=True
        )
