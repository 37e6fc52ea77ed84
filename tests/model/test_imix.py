"""i-Mix: inputs and targets mixed alike, against the paper's equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq import BYOL, SSQL, IMix, InfoNCE
from byola_rq.model.imix import Mix
from byola_rq.model.objective import Objective
from byola_rq.runtime.rng import fold_in, sample_keys
from tests.model.test_infonce import points, points_encoder

KEYS = sample_keys(0, 0, torch.arange(8))


def test_inputs_are_the_formula_and_the_other_gets_no_gradient() -> None:
    x = torch.randn(8, 3, 4, dtype=torch.float64, requires_grad=True)
    mixed, mix = IMix()(x, KEYS)
    for row in range(8):
        share, other = mix.share[row].double(), int(mix.index[row])
        torch.testing.assert_close(mixed[row], share * x[row] + (1 - share) * x[other].detach())
        assert other != row
    mixed.sum().backward()
    assert torch.equal(x.grad, mix.share.double()[:, None, None].expand_as(x))
    for half in (torch.float16, torch.bfloat16):
        assert IMix()(x.detach().to(half), KEYS)[0].dtype == half


# Distribution functions of Beta(alpha, alpha).
CLOSED = {
    0.5: lambda b: 2 / math.pi * b.sqrt().asin(),
    1.0: lambda b: b,
    2.0: lambda b: 3 * b**2 - 2 * b**3,
}


@pytest.mark.parametrize("alpha", CLOSED)
def test_shares_are_the_larger_part_of_a_beta_number(alpha: float) -> None:
    smaller = IMix(alpha).quantiles.double()
    probability = torch.linspace(0, 1, len(smaller), dtype=torch.float64)
    # P(min(b, 1 - b) < r) = 2 P(b < r); the rule's error is of the order of its step squared.
    torch.testing.assert_close(2 * CLOSED[alpha](smaller), probability, atol=1e-6, rtol=0)
    keys = sample_keys(3, 0, torch.arange(4000))
    share = IMix(alpha).draw(keys).share.double()
    assert ((share >= 0.5) & (share <= 1)).all()
    # Kolmogorov's distance of 4,000 numbers is above 2.4 / sqrt(4000) once in 1e5 tries.
    drawn = 1 - 2 * CLOSED[alpha](1 - share).sort().values
    assert (drawn.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 2.4 / math.sqrt(4000)


def test_the_other_sample_is_any_but_itself() -> None:
    imix = IMix()
    draws = [imix.draw(fold_in(KEYS, number)).index for number in range(700)]
    counts = torch.zeros(8, 8)
    for index in draws:
        counts[torch.arange(8), index] += 1
    assert (counts.diagonal() == 0).all()
    # 700 draws among 7: 100 each, standard deviation 9.3.
    assert (counts[~torch.eye(8, dtype=torch.bool)] - 100).abs().max() < 5 * 9.3


class Recorded(IMix):
    """i-Mix that records its draws."""

    def draw(self, key: Tensor) -> Mix:
        self.mixes = [*getattr(self, "mixes", []), super().draw(key)]
        return self.mixes[-1]


def mixed_objective(kind: type[Objective]) -> Objective:
    imix = Recorded()
    objective = kind(
        points_encoder(), embedding_dim=10, projection_dim=8, hidden_dim=32, imix=imix
    ).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return objective


def networks(objective: Objective, views: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Virtual labels, unit predictions of the mixed view, unit targets of the other: both ways."""
    parts = []
    for mix, own, other in zip(objective.imix.mixes, views, views[::-1], strict=True):
        label = torch.eye(len(own), dtype=own.dtype)
        share = mix.share.to(own.dtype)[:, None]
        label = share * label + (1 - share) * label[mix.index]
        q = objective.predictor(objective.projector(objective.encoder(mix.apply(own))))
        z = objective.target_projector(objective.target_encoder(other)).detach()
        parts.append((label, F.normalize(q, dim=1), F.normalize(z, dim=1)))
    return parts


def gradients(loss: Tensor, objective: Objective) -> list[Tensor]:
    online = [each for each in objective.parameters() if each.requires_grad]
    return list(torch.autograd.grad(loss, online))


def test_infonce_is_cross_entropy_with_mixed_labels() -> None:
    objective = mixed_objective(InfoNCE)
    views = [each.double() for each in points(4)]
    loss, _ = objective(*views, KEYS)
    expected = torch.zeros((), dtype=torch.float64)
    for label, q, z in networks(objective, views):
        log_share = (q @ z.T / 0.2).log_softmax(1)
        expected = expected - 0.4 * (label * log_share).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    for found, wanted in zip(
        gradients(loss, objective), gradients(expected, objective), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_byol_has_the_gradient_of_the_distance_to_the_mixed_target() -> None:
    objective = mixed_objective(BYOL)
    views = [each.double() for each in points(5)]
    loss, _ = objective(*views, KEYS)
    expected = torch.zeros((), dtype=torch.float64)
    for label, q, z in networks(objective, views):
        expected = expected + (q - label @ z).square().sum(1).mean()
    # Apart by what the targets alone decide: l (1 - l) |z_i - z_j|^2.
    assert loss > expected
    for found, wanted in zip(
        gradients(loss, objective), gradients(expected, objective), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_a_key_decides_and_none_is_drawn() -> None:
    objective = mixed_objective(InfoNCE)
    views = [each.double() for each in points(6)]
    losses = [objective(*views, KEYS)[0] for _ in range(2)]
    assert torch.equal(*losses)
    assert not torch.equal(objective(*views)[0], objective(*views)[0])


def test_embeddings_of_tokens_are_mixed_too() -> None:
    """DABS's e-Mix: both views are the same embeddings, only the mix tells them apart."""
    tokens = torch.randint(50, (8, 20), generator=torch.Generator().manual_seed(0))
    embedded = torch.nn.Embedding(50, 3)(tokens).detach()  # (B, T, D)
    objective = InfoNCE(points_encoder(), embedding_dim=10, hidden_dim=32, imix=IMix())
    loss, embedding = objective(embedded, embedded, KEYS)
    assert loss.isfinite()
    assert not torch.equal(embedding, objective.encoder(embedded))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"imix": IMix()}, {"ssql": SSQL()}])
def test_a_compiled_objective_is_the_same(options: dict[str, IMix | SSQL]) -> None:
    """Traced and taken apart as for any compiler, whose own code would take a minute to make."""
    objective = InfoNCE(points_encoder(), embedding_dim=10, hidden_dim=32, **options)
    compiled = torch.compile(objective, backend="aot_eager")
    for number in range(2):
        views = points(number)
        torch.testing.assert_close(compiled(*views, KEYS), objective(*views, KEYS))


def test_a_large_alpha_mixes_halves() -> None:
    quantiles = IMix(1e6).quantiles
    assert quantiles.isfinite().all()
    # The standard deviation of Beta(a, a) is 1 / sqrt(8 a + 4); one in 8192 is 4 of them away.
    assert quantiles[1] > 0.5 - 10 / 8e6**0.5


def test_alpha_must_be_positive() -> None:
    for alpha in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="^alpha "):
            IMix(alpha)
    with pytest.raises(ValueError, match="^key "):
        IMix()(torch.randn(8, 2), KEYS[:3])
