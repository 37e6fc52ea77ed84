"""Linear probes of the published numbers, by their authors' rules.

Both train one linear layer with Adam, in batches of 200, for at most 200 epochs, on embeddings
standardized by all clips that are not test clips, and keep the last best validation epoch. If a set
has no validation clips, both draw a tenth regardless of class, again until every class is present;
here the draw is seeded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluate.probes.adam import AdamProbe
from evaluate.probes.prepared import FittedProbe, Flags, Labels, Part, prepare

VALID_FRACTION = 0.1
MAX_DRAWS = 100
WEIGHT_DECAY = 1e-8


@dataclass(frozen=True, kw_only=True)
class OfficialProbe:
    """Settings of a published linear probe.

    Attributes:
        lr: Learning rate of Adam.
        task_lrs: Learning rates by task, for tasks published with their own.
        patience: Epochs below the best validation score after which training stops.
        num_runs: Number of runs whose scores are averaged.
        is_mean_over_classes: True to divide the single-label loss by the number of classes; the
            multi-label loss is always divided.
    """

    lr: float
    task_lrs: Mapping[str, float] = field(default_factory=dict)
    patience: int
    num_runs: int
    is_mean_over_classes: bool

    def lr_of(self, task: str) -> float:
        """Return the learning rate of a task."""
        return self.task_lrs.get(task, self.lr)


# Probes by their name on the command line. Sources: the evaluation of BYOL-A (arXiv:2103.06695),
# and EVAR with the rates of BYOL-A v2 (arXiv:2204.07402), both by Niizumi et al.
OFFICIAL_PROBES = {
    "byol_a": OfficialProbe(lr=1e-3, patience=10, num_runs=1, is_mean_over_classes=False),
    "evar": OfficialProbe(
        lr=3e-4,
        task_lrs={
            "nsynth": 1e-3,
            "us8k": 3e-5,
            "vc1": 4e-5,
            "voxforge": 1e-4,
            "spcv2": 3e-5,
            "esc50": 1e-3,
            "gtzan": 1e-3,
        },
        patience=20,
        num_runs=3,
        is_mean_over_classes=True,
    ),
}


def fit_official(
    name: str,
    train: Part,
    valid: Part,
    *,
    task: str,
    is_valid_drawn: bool,
    seed: int,
    device: str,
) -> tuple[FittedProbe, ...]:
    """Fit one of `OFFICIAL_PROBES`.

    Args:
        name: Key of `OFFICIAL_PROBES`.
        train: Clips to train on.
        valid: Clips to validate on.
        task: Name of the task, which may have its own learning rate.
        is_valid_drawn: True if our protocol drew `valid` from the training clips. Then each run
            redraws it from both parts; if no draw has every class, `valid` is kept with a warning.
        seed: Seed of the first run; the others follow.
        device: Torch device.

    Returns:
        One probe for each run.
    """
    rules = OFFICIAL_PROBES[name]
    joined = _join(train, valid) if is_valid_drawn else None
    data = prepare(train, valid, device) if joined is None else None
    probes = []
    for each_seed in range(seed, seed + rules.num_runs):
        warnings: tuple[str, ...] = ()
        if joined is not None:
            is_valid = draw_valid(joined.labels, each_seed)
            if is_valid is None:
                warnings = (f"{name}: no draw of a tenth has every class; drawn by class instead",)
                parts = train, valid
            else:
                parts = _take(joined, ~is_valid), _take(joined, is_valid)
            data = prepare(*parts, device, scaled_by=joined.features)
        assert data is not None
        layer = AdamProbe(
            lr=rules.lr_of(task),
            patience=rules.patience,
            weight_decay=WEIGHT_DECAY,
            is_mean_over_classes=rules.is_mean_over_classes or data.labels.ndim == 2,
            seed=each_seed,
            device=device,
        )
        probes.append(data.fit_layer(layer, warnings))
    return tuple(probes)


def draw_valid(labels: Labels | Flags, seed: int) -> Flags | None:
    """Draw the validation clips among clips with `labels (N,)` or `(N, C)`.

    Returns:
        Bool `(N,)`, a tenth of it true, rounded up; None if no draw has every class.
    """
    num_valid = math.ceil(VALID_FRACTION * len(labels))
    generator = np.random.default_rng((seed, len(labels)))
    for _ in range(MAX_DRAWS):
        is_valid = np.zeros(len(labels), dtype=np.bool_)
        is_valid[generator.permutation(len(labels))[:num_valid]] = True
        if _num_classes(labels[is_valid]) == _num_classes(labels):
            return is_valid
    return None


def _num_classes(labels: Labels | Flags) -> int:
    return len(np.unique(labels)) if labels.ndim == 1 else int(labels.any(axis=0).sum())


def _join(first: Part, second: Part) -> Part:
    return Part(
        np.concatenate([first.features, second.features]),
        np.concatenate([first.labels, second.labels]),
    )


def _take(part: Part, chosen: Flags) -> Part:
    return Part(part.features[chosen], part.labels[chosen])
