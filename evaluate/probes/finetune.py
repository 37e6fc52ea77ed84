"""Fine-tuning: the encoder and a linear layer trained on the task's clips, with early stopping."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from byola_rq.errors import ByolaRQError
from evaluate.probes.adam import make_layer, sum_of_binary_losses
from evaluate.probes.metrics import METRICS, class_positions, metric_for
from evaluate.probes.prepared import Labels, select_classes
from evaluate.probes.tuned import (
    Classifier,
    FineTuned,
    LabelledClips,
    crop_in_time,
    score_clips,
    set_momentum,
)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Protocol of fine-tuning; constants, not options, so that scores are comparable.

    Attributes:
        encoder_lrs: Candidate learning rates (Adam) of the encoder, ascending.
        lr: Learning rate of the linear layer.
        batch_size: Clips per step.
        max_epochs: Maximum number of epochs.
        patience: Epochs below the best validation score after which training stops.
        num_seeds: Number of runs whose scores are averaged.
        max_shift: Share of a clip by which a training crop may begin before it, or end after it.

    Source: EVAR fine-tunes like this: encoder in training mode, embeddings through batch norm into
    a linear layer. It uses SGD with a cosine schedule instead, and a rate found by its user.
    """

    encoder_lrs: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    lr: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 50
    patience: int = 10
    num_seeds: int = 3
    max_shift: float = 0.1

    @property
    def num_epochs(self) -> int:
        """Maximum number of epochs of all runs together."""
        return self.max_epochs * (len(self.encoder_lrs) + self.num_seeds - 1)


def finetune(
    encoder: nn.Module,
    clips: LabelledClips,
    *,
    rules: Rules,
    seed: int,
    device: str,
    on_epochs: Callable[[int], None] = lambda _count: None,
) -> Iterator[FineTuned]:
    """Fine-tune copies of an encoder: the first seed at every rate, the others at the best rate.

    Of rates with equal validation scores the smallest counts. Deterministic for a seed on the CPU
    of one machine; the global random state is not changed.

    Args:
        encoder: Module with `embedding_dim`, `(B, 1, F, T)` to `(B, D)`; it is not changed.
        clips: Clips to train and validate on.
        rules: Protocol of fine-tuning.
        seed: First seed; the others follow.
        device: Torch device.
        on_epochs: Called with the number of epochs just done, or saved by early stopping.

    Yields:
        The fine-tuned encoder of each seed.

    Raises:
        ByolaRQError: If training diverges at every rate, or from a later seed.
        ValueError: If there are too few classes or clips.
    """
    start = time.perf_counter()
    best: FineTuned | None = None
    for encoder_lr in rules.encoder_lrs:
        fit = _Fit(encoder, clips, rules, device)
        tuned = fit.run(encoder_lr, seed, on_epochs)
        if best is None or tuned.valid_score > best.valid_score:
            best = tuned
    assert best is not None
    yield replace(_check_converged(best), fit_seconds=time.perf_counter() - start)
    for each_seed in range(seed + 1, seed + rules.num_seeds):
        fit = _Fit(encoder, clips, rules, device)
        yield _check_converged(fit.run(float(best.params["encoder_lr"]), each_seed, on_epochs))


def _check_converged(tuned: FineTuned) -> FineTuned:
    if tuned.valid_score < 0:
        encoder_lr = tuned.params["encoder_lr"]
        raise ByolaRQError(
            f"fine-tuning must give finite numbers; from seed {tuned.seed} it diverged at the best "
            f"rate of the encoder, {encoder_lr:g}",
            code="diverged",
            value=encoder_lr,
        )
    return tuned


class _Fit:
    """Training of one copy of the encoder."""

    def __init__(self, encoder: nn.Module, clips: LabelledClips, rules: Rules, device: str) -> None:
        self.encoder, self.clips, self.rules, self.device = encoder, clips, rules, device
        labels, valid_labels, self.classes, self.num_classes = select_classes(
            clips.targets[clips.train], clips.targets[clips.valid]
        )
        if len(labels) < 2:
            raise ValueError(f"fine-tuning must have at least 2 training clips; got {len(labels)}")
        # Crops are a multiple of the frames that an encoder embeds together: it drops the rest.
        self.num_together = int(getattr(encoder, "frames_per_embedding", 1))
        self.is_multilabel = labels.ndim == 2
        if self.is_multilabel:
            self.targets = torch.from_numpy(clips.targets[:, self.classes].astype(np.float32))
            self.valid_labels = valid_labels
        else:
            self.targets = torch.from_numpy(class_positions(clips.targets, self.classes))
            self.valid_labels = class_positions(valid_labels, self.classes)

    def run(self, encoder_lr: float, seed: int, on_epochs: Callable[[int], None]) -> FineTuned:
        """Train until patience runs out; return the network at its last best epoch."""
        start = time.perf_counter()
        rules, self.num_steps = self.rules, 0
        generator = torch.Generator().manual_seed(seed)  # layer and order, as in the adam probe
        crops = np.random.default_rng((seed, 1))
        devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)  # seeds dropout
            network = self._build(generator)
            optimizer = self._make_optimizer(network, encoder_lr)
            best_score, best_epoch, best_weights = -1.0, 0, network.state_dict()
            for epoch in range(1, rules.max_epochs + 1):
                permutation = torch.randperm(len(self.clips.train), generator=generator)
                order = self.clips.train[permutation.numpy()]
                self._train(network, optimizer, order, crops)
                score = self._validate(network)
                on_epochs(1)
                if score >= best_score and score >= 0:
                    best_score, best_epoch = score, epoch
                    best_weights = copy.deepcopy(network.state_dict())
                elif score < 0 or epoch - best_epoch >= rules.patience:
                    break
        on_epochs(rules.max_epochs - epoch)
        network.load_state_dict(best_weights)
        params = {"encoder_lr": encoder_lr, "lr": rules.lr, "epochs": epoch}
        return FineTuned(
            network=network,
            batches=self.clips.batches,
            batch_size=rules.batch_size,
            classes=self.classes,
            num_classes=self.num_classes,
            is_multilabel=self.is_multilabel,
            valid_score=best_score,
            params={**params, "best_epoch": best_epoch},
            seed=seed,
            fit_seconds=time.perf_counter() - start,
            num_train=len(self.clips.train),
            num_valid=len(self.clips.valid),
        )

    def _build(self, generator: torch.Generator) -> Classifier:
        encoder = copy.deepcopy(self.encoder).requires_grad_(True)
        dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        layer = make_layer(dim, len(self.classes), generator)
        return Classifier(encoder, layer).to(self.device)

    def _make_optimizer(self, network: Classifier, encoder_lr: float) -> torch.optim.Adam:
        groups = [
            {"params": list(network.encoder.parameters()), "lr": encoder_lr},
            {"params": list(network.layer.parameters()), "lr": self.rules.lr},
        ]
        return torch.optim.Adam([group for group in groups if group["params"]])

    def _train(
        self,
        network: Classifier,
        optimizer: torch.optim.Adam,
        order: Labels,
        crops: np.random.Generator,
    ) -> None:
        """Train one epoch over the clips in `order`."""
        network.train()
        loss_of = sum_of_binary_losses if self.is_multilabel else F.cross_entropy
        for positions, log_mel in self.clips.batches(order.tolist(), self.rules.batch_size):
            if len(positions) < 2:
                continue  # batch norm needs two clips; the last one takes part in other epochs
            self.num_steps += 1
            set_momentum(network, max(0.1, 1 / self.num_steps))
            cropped = crop_in_time(
                log_mel,
                log_mel.shape[-1] - log_mel.shape[-1] % self.num_together,
                self.rules.max_shift,
                silence=self.clips.silence,
                generator=crops,
            )
            loss = loss_of(network(cropped), self.targets[positions].to(self.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _validate(self, network: Classifier) -> float:
        """Return the validation score; -1 if a logit is not finite."""
        batches = self.clips.batches(self.clips.valid.tolist(), self.rules.batch_size)
        logits = score_clips(network, batches)
        if not np.isfinite(logits).all():
            return -1.0
        return METRICS[metric_for(self.valid_labels)](self.valid_labels, logits)
