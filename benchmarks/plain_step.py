"""A straightforward training step, written from the papers' equations, as a reference.

Convolution, batch norm, ReLU, pooling in this order and in torch's default memory layout; torch's
own modules; default Adam; the target is updated parameter by parameter. Frontend, views and
parameter names are this package's, so that both can start from the same weights.
"""

import copy

import torch
from torch import Tensor, nn

from byola_rq.corpus.segments import SegmentBatch
from byola_rq.runtime.device import float32_products
from byola_rq.train.state import TrainState


class PlainEncoder(nn.Module):
    """The 2020 encoder, `(B, 1, F, T)` -> `(B, D)`. Source: arXiv:2103.06695."""

    def __init__(self, dim: int, n_mels: int, *, pools_first: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels in (1, 64, 64):
            norm, relu, pool = nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)
            behind = (norm, pool, relu) if pools_first else (norm, relu, pool)
            layers += [nn.Conv2d(in_channels, 64, 3, padding=1), *behind]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Sequential(
            nn.Linear(64 * (n_mels // 8), dim),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(dim, dim),
            nn.ReLU(),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed standardized log-mel spectrograms, `(B, 1, F, T)` -> `(B, D)`."""
        x = self.features(log_mel).permute(0, 3, 2, 1).flatten(2)
        x = self.fc(x)  # (B, T // 8, D)
        embedding: Tensor = x.max(1).values + x.mean(1)
        return embedding


class PlainBYOL(nn.Module):
    """Online and target networks. Source: Grill et al. (arXiv:2006.07733)."""

    def __init__(self, encoder: nn.Module, dim: int, hidden_dim: int, projection_dim: int) -> None:
        super().__init__()

        def head(in_dim: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(in_dim, hidden_dim),
                nn.BatchNorm1d(hidden_dim),
                nn.ReLU(),
                nn.Linear(hidden_dim, projection_dim),
            )

        self.encoder, self.projector, self.predictor = encoder, head(dim), head(projection_dim)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Compute the loss of a batch of view pairs, `(B, 1, F, T)` each."""
        loss = torch.zeros((), device=view_1.device)
        for own, other in ((view_1, view_2), (view_2, view_1)):
            q = self.predictor(self.projector(self.encoder(own)))
            with torch.no_grad():
                z = self.target_projector(self.target_encoder(other))
            q, z = nn.functional.normalize(q.float()), nn.functional.normalize(z.float())
            loss = loss + (2 - 2 * (q * z).sum(1)).mean()
        return loss

    @torch.no_grad()
    def update_target(self, ema_decay: float) -> None:
        """Move each parameter of the target toward the online one."""
        pairs = ((self.target_encoder, self.encoder), (self.target_projector, self.projector))
        for target, online in pairs:
            for t, o in zip(target.parameters(), online.parameters(), strict=True):
                t.copy_(ema_decay * t + (1 - ema_decay) * o)


class PlainStep:
    """Plain training steps, starting from the weights of a `TrainState`.

    Args:
        training: State whose configuration, weights, frontend and views are used; not changed.
        is_tuned: Use options that torch offers: channels last, pooling before the ReLU, fused Adam,
            and its default matrix products and convolutions.
    """

    def __init__(self, training: TrainState, *, is_tuned: bool = False) -> None:
        self.training = training
        config = training.config
        dim = config.encoder.dim
        encoder = PlainEncoder(dim, config.frontend.n_mels, pools_first=is_tuned)
        self.byol = PlainBYOL(encoder, dim, config.byol.hidden_dim, config.byol.projection_dim)
        self.byol.load_state_dict(training.byol.state_dict())
        self.byol.to(training.device)
        if is_tuned:
            self.byol.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parameters = [each for each in self.byol.parameters() if each.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=config.optimizer.lr, fused=is_tuned)
        self.step = 0

    def __call__(self, batch: SegmentBatch) -> Tensor:
        """Train on a batch; return its loss, still on the device."""
        training = self.training
        waveform, key, _ = batch.to(training.device)
        with torch.no_grad():
            log_mel = training.statistics.standardize(training.frontend(waveform))[:, None]
            view_1, view_2 = training.views(log_mel, key)
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate(self.step)
        is_bfloat16 = training.precision == "bfloat16"
        with float32_products(training.precision):
            with torch.autocast(training.device.type, torch.bfloat16, enabled=is_bfloat16):
                loss: Tensor = self.byol(view_1, view_2)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.byol.update_target(training.ema_decay(self.step))
        self.step += 1
        return loss.detach()
