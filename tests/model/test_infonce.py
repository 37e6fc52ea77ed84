"""InfoNCE against a loop over pairs; any encoder under either objective."""

import math

import pytest
import torch
from torch import Tensor, nn

from byola_rq import BYOL, InfoNCE
from byola_rq.model.infonce import contrastive_loss
from byola_rq.model.objective import Objective


def pairs(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


def loop_loss(prediction: Tensor, target: Tensor, wanted: list[int], temperature: float) -> Tensor:
    """Pair by pair, with the logarithm of the sum as it is written."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())

    losses = []
    for q, row in zip(prediction, wanted, strict=True):
        logits = [cosine(q, z) / temperature for z in target]
        total = torch.stack([each.exp() for each in logits]).sum()
        losses.append(-2 * temperature * (logits[row].exp() / total).log())
    return torch.stack(losses)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("wanted", [[0, 1, 2, 3, 4, 5, 6], [3, 3, 0, 6, 1, 2, 5]])
def test_loss_and_gradient_are_those_of_a_loop(temperature: float, wanted: list[int]) -> None:
    prediction, target = pairs()
    prediction.requires_grad_()
    own = wanted == list(range(7))
    index = None if own else torch.tensor(wanted)
    found = contrastive_loss(prediction, target, index, temperature=temperature)
    expected = loop_loss(prediction, target, wanted, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.mean(), prediction)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_a_perfect_prediction_among_orthogonal_ones() -> None:
    unit = torch.eye(6, dtype=torch.float64)
    loss = contrastive_loss(3 * unit, unit / 2, temperature=0.2)
    torch.testing.assert_close(loss, torch.full_like(loss, 0.4 * math.log(1 + 5 * math.exp(-5))))


def test_narrow_numbers_are_computed_in_float32() -> None:
    prediction, target = pairs(dtype=torch.bfloat16)
    plain = contrastive_loss(prediction.float(), target.float(), temperature=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(prediction, target, temperature=0.2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, plain)


def points_encoder() -> nn.Sequential:
    """Encoder of point clouds `(B, N, 3)` without an attribute `embedding_dim`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 24), nn.ReLU(), nn.Linear(24, 10))


def points(seed: int, num: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.randn(num, 20, 3, generator=generator)
    noise = torch.randn(2, num, 20, 3, generator=generator) * 0.3
    return clouds + noise[0], clouds + noise[1]


def small(kind: type[Objective], **options: float) -> Objective:
    return kind(
        points_encoder(),
        embedding_dim=10,
        projection_dim=8,
        hidden_dim=32,
        **options,  # type: ignore[arg-type]
    )


def test_the_objective_is_symmetric_and_teaches_the_online_network_alone() -> None:
    objective = small(InfoNCE, temperature=0.3).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    views = [each.double() for each in points(1)]
    loss, embedding = objective(*views)
    expected = torch.zeros((), dtype=torch.float64)
    for own, other in (views, views[::-1]):
        q = objective.predictor(objective.projector(objective.encoder(own)))
        z = objective.target_projector(objective.target_encoder(other)).detach()
        expected = expected + loop_loss(q, z, list(range(8)), 0.3).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(embedding, objective.encoder(views[0]))
    online = [each for each in objective.parameters() if each.requires_grad]
    gradients = [torch.autograd.grad(each, online) for each in (loss, expected)]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-13)
    taught = {
        name.split(".")[0] for name, each in objective.named_parameters() if each.requires_grad
    }
    assert taught == {"encoder", "projector", "predictor"}


@pytest.mark.parametrize("kind", [BYOL, InfoNCE])
def test_any_encoder_learns(kind: type[Objective]) -> None:
    objective = small(kind)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss, embedding = objective(*points(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.update_target(0.9)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert embedding.std(dim=0).mean() > 0.01


@pytest.mark.parametrize("kind", [BYOL, InfoNCE])
def test_an_encoder_of_unknown_width_is_refused(kind: type[Objective]) -> None:
    with pytest.raises(ValueError, match="Sequential"):
        kind(points_encoder())


def test_views_that_do_not_fit_are_refused() -> None:
    first, second = points(0)
    for views in ((first, second[:5]), (first[:1], second[:1])):
        with pytest.raises(ValueError, match="^views "):
            small(InfoNCE)(*views)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="^temperature "):
        InfoNCE(points_encoder(), embedding_dim=10, temperature=0.0)
