"""Common part of the examples on other data: pretrain variants, probe each, print a table."""

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from byola_rq import BYOL, IMix, InfoNCE

LABELS, BATCH = 10, 64  # labels per class in the first column; the second uses all

Transform = Callable[[Tensor], Tensor] | IMix
Scores = NDArray[np.float64]


def parse_options(description: str | None, *, steps: int) -> argparse.Namespace:
    """Read `seeds`, `steps` and `objective` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        help="number of seeds of split, weights and views, at least 2",
    )
    parser.add_argument("--steps", type=int, default=steps, help="steps of pretraining")
    parser.add_argument("--objective", choices=("infonce", "byol"), default="infonce")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, for an interval; got {options.seeds}")
    if options.steps < 1:
        parser.error(f"--steps must be at least 1; got {options.steps}")
    return options


def pretrain(
    encoder: nn.Module,
    inputs: Tensor,
    transforms: tuple[Transform, ...],
    *,
    seed: int,
    options: argparse.Namespace,
) -> None:
    """Train an encoder on two views of each input; the objective applies i-Mix."""
    imix = next((each for each in transforms if isinstance(each, IMix)), None)
    objective = {"byol": BYOL, "infonce": InfoNCE}[options.objective]
    model = objective(encoder, projection_dim=64, hidden_dim=256, imix=imix).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    batches = torch.Generator().manual_seed(seed)  # equal for all variants
    for _ in range(options.steps):
        batch = inputs[torch.randint(len(inputs), (BATCH,), generator=batches)]
        loss, _ = model(make_view(batch, transforms), make_view(batch, transforms))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_target(ema_decay=0.99)


def make_view(batch: Tensor, transforms: tuple[Transform, ...]) -> Tensor:
    """Apply the transforms one after the other, except i-Mix."""
    for transform in transforms:
        batch = batch if isinstance(transform, IMix) else transform(batch)
    return batch


@torch.no_grad()
def embed(encoder: nn.Module, inputs: Tensor) -> Tensor:
    """Embed all inputs: `(N, D)`."""
    encoder.eval()
    return torch.cat([encoder(part) for part in torch.split(inputs, 256)])


def probe(features: Tensor, labels: Tensor, train: Tensor, test: Tensor) -> Scores:
    """Accuracy in percent of a linear probe from few labels and from all, `(2,)`."""
    few = torch.cat([train[labels[train] == c][:LABELS] for c in range(int(labels.max()) + 1)])
    scores = []
    for rows in (few, train):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(features[rows].numpy(), labels[rows].numpy())
        scores.append(100 * classifier.score(features[test].numpy(), labels[test].numpy()))
    return np.array(scores)


def compare(
    inputs: Tensor,
    labels: Tensor,
    *,
    make_encoder: Callable[[], nn.Module],
    variants: Mapping[str, tuple[Transform, ...]],
    plain: tuple[str, Tensor],
    options: argparse.Namespace,
) -> None:
    """Print the accuracy of a linear probe after each pretraining, as a markdown table.

    Args:
        inputs: Inputs `(N, ...)`; each seed holds out 30 %, stratified by class.
        labels: Class of each input, int64 `(N,)`.
        make_encoder: Builds an encoder `(B, ...)` -> `(B, D)`, with attribute `embedding_dim`.
        variants: Transforms of a view, in order, by variant; the reference is called `none`.
        plain: Name and features `(N, D)` of a baseline without a network.
        options: Options from `parse_options`.
    """
    scores: dict[str, list[Scores]] = {}
    for seed in range(options.seeds):
        rows = train_test_split(
            np.arange(len(labels)), test_size=0.3, stratify=labels, random_state=seed
        )
        train, test = map(torch.from_numpy, rows)
        scores.setdefault(plain[0], []).append(probe(plain[1], labels, train, test))
        for name, transforms in {"untrained": None, **variants}.items():
            torch.manual_seed(seed)
            encoder = make_encoder()
            if transforms is not None:
                pretrain(encoder, inputs[train], transforms, seed=seed, options=options)
            found = probe(embed(encoder, inputs), labels, train, test)
            scores.setdefault(name, []).append(found)
    print_table(
        scores,
        f"| {options.objective}, {options.steps} steps, {options.seeds} seeds "
        f"| {LABELS} labels per class | above none | {len(train):,} labels | above none |",
    )


def print_table(scores: Mapping[str, list[Scores]], heading: str) -> None:
    """Print means, paired differences to the reference, their intervals, and processor time."""
    print(heading, "|---|---|---|---|---|", sep="\n")
    for name, values in scores.items():
        few, whole = interval(values)
        above = ["", ""]
        if name != "none":
            above = interval(np.subtract(values, scores["none"]), sign="+")
        print(f"| {name} | {few} | {above[0]} | {whole} | {above[1]} |")
    print()
    for base, name in itertools.permutations(scores, 2):
        if name.startswith(f"{base} + "):
            few, whole = interval(np.subtract(scores[name], scores[base]), sign="+")
            print(f"{name} above {base}: {few}; {whole}")
    print(
        f"{time.process_time():.0f} s of processor time; torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, Python {platform.python_version()}"
    )


def interval(values: list[Scores] | Scores, *, sign: str = "") -> list[str]:
    """Format the mean and half of its 95 % t interval over seeds, for each column."""
    mean = np.mean(values, axis=0)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values, axis=0)
    return [f"{m:{sign}z.1f} ± {h:.1f}" for m, h in zip(mean, half, strict=True)]
