"""SSQL: the quantizers against loops, the quantized encoder against one written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq import BYOL, SSQL, InfoNCE
from byola_rq.model.encoder import AudioNTT2020
from byola_rq.model.objective import Objective
from byola_rq.model.ssql import quantize_activation, quantize_weight
from byola_rq.runtime.rng import fold_in, sample_keys
from tests.model.test_infonce import points, points_encoder

KEYS = sample_keys(0, 0, torch.arange(8))


def bits_of(number: int) -> Tensor:
    return torch.tensor([number])


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_weights_by_channel(bits: int) -> None:
    weight = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    found = quantize_weight(weight, bits_of(bits))
    for channel, row in enumerate(weight.detach()):
        scale = 2 * float(row.abs().max()) / (2**bits - 1)
        values = row.flatten().tolist()
        for own, value in zip(found[channel].flatten().tolist(), values, strict=True):
            whole = min(max(round(value / scale), 1 - 2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            assert own == pytest.approx(whole * scale, abs=1e-12)
        assert len(found[channel].unique()) <= 2**bits
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert torch.equal(quantize_weight(torch.zeros(2, 3), bits_of(bits)), torch.zeros(2, 3))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("level", [0.0, 0.4, 3.0])
def test_activations_over_the_batch(bits: int, level: float) -> None:
    x = (torch.randn(6, 5, dtype=torch.float64) + level).clamp(min=0).requires_grad_()
    found = quantize_activation(x, bits_of(bits))
    low, high = x.aminmax()
    low, high = low.item(), high.item()
    scale = (high - low) / (2**bits - 1)
    zero = -round(low / scale)
    for own, value in zip(found.flatten().tolist(), x.flatten().tolist(), strict=True):
        whole = min(max(round(value / scale) + zero, 0), 2**bits - 1)
        assert own == pytest.approx((whole - zero) * scale, abs=1e-12)
    assert (found[x == 0] == 0).all()
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    constant = torch.full((2, 3), level)
    assert torch.isfinite(quantize_activation(constant, bits_of(bits))).all()
    for half in (torch.float16, torch.bfloat16):
        assert quantize_activation(constant.to(half), bits_of(bits)).dtype == half


def test_bits_are_of_the_batch_and_within_their_bounds() -> None:
    ssql = SSQL((2, 4), (5, 6))
    drawn = [ssql.draw(fold_in(KEYS, number)) for number in range(200)]
    assert {int(weight) for weight, _ in drawn} == {2, 3, 4}
    assert {int(activation) for _, activation in drawn} == {5, 6}
    assert ssql.draw(KEYS) == ssql.draw(KEYS[:1])  # the first sample's


def test_the_encoder_is_quantized_from_its_second_layer_on() -> None:
    encoder, x = points_encoder(), points(3)[0]
    ssql = SSQL((3, 6), (4, 4))
    bits, _ = ssql.draw(KEYS)
    assert int(bits) < 6  # or the first layer would not differ
    found = ssql(encoder, x, KEYS)
    first, second = encoder[1], encoder[3]
    hidden = F.linear(x.flatten(1), quantize_weight(first.weight, bits_of(6)), first.bias).relu()
    expected = F.linear(
        quantize_activation(hidden, bits_of(4)), quantize_weight(second.weight, bits), second.bias
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    # What was there before is there again.
    assert not any(layer._forward_pre_hooks for layer in encoder.modules())
    assert torch.equal(encoder(x), second(first(x.flatten(1)).relu()))
    found.sum().backward()
    assert all(each.grad is not None for each in encoder.parameters())


def test_every_activation_of_the_audio_encoder_has_few_values() -> None:
    """Inputs of convolutions and linear layers are quantized, even if a block is one function."""
    torch.manual_seed(0)
    encoder = AudioNTT2020(dim=16)
    seen: list[int] = []
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda module, inputs, output: seen.append(len(inputs[0].unique()))
            )
    SSQL((2, 2), (4, 4))(encoder, torch.randn(8, 1, 64, 96), KEYS)
    assert len(seen) == 4  # the first block is fused
    assert max(seen) <= 16


@pytest.mark.parametrize("kind", [BYOL, InfoNCE])
def test_the_loss_is_the_mean_of_both(kind: type[Objective]) -> None:
    sizes = {"embedding_dim": 10, "projection_dim": 8, "hidden_dim": 32}
    torch.manual_seed(1)
    objective = kind(points_encoder(), **sizes, ssql=SSQL()).double()
    views = [each.double() for each in points(7)]
    loss, embedding = objective(*views, KEYS)
    parts = []
    for embed in (objective.encoder, lambda x: objective.ssql(objective.encoder, x, KEYS)):
        for own, other in (views, views[::-1]):
            q = objective.predictor(objective.projector(embed(own)))
            z = objective.target_projector(objective.target_encoder(other)).detach()
            parts.append(objective.losses(q, z).mean())
    torch.testing.assert_close(loss, sum(parts) / 2, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(parts[0], parts[2], rtol=1e-4)
    assert torch.equal(embedding, objective.encoder(views[0]))


@pytest.mark.parametrize("bits", [(1, 8), (5, 4), (2, 17), (4,)])
@pytest.mark.parametrize("name", ["weight_bits", "activation_bits"])
def test_bounds_that_are_none(name: str, bits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        SSQL(**{name: bits})


def test_an_encoder_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="Flatten"):
        SSQL()(nn.Flatten(), points(0)[0], KEYS)
