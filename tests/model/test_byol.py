"""BYOL: the loss against its formula, the target against the EMA, learning on real sound."""

import math
from pathlib import Path

import pytest
import torch

from byola_rq.audio.frontend import LogMelSpectrogram, measure_statistics
from byola_rq.audio.io import fit_length, read_audio
from byola_rq.augment.views import Views
from byola_rq.model.byol import BYOL, regression_loss
from byola_rq.model.encoder import AudioNTT2020
from byola_rq.model.objective import _interpolate
from byola_rq.runtime.rng import sample_keys
from byola_rq.train.schedules import ema_decay, learning_rate


def small_byol() -> BYOL:
    torch.manual_seed(0)
    return BYOL(AudioNTT2020(dim=16), projection_dim=8, hidden_dim=32)


def views(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randn(2, 6, 1, 64, 96, generator=torch.Generator().manual_seed(seed))
    return both[0], both[1]


def test_regression_loss_is_the_squared_distance_of_unit_vectors() -> None:
    prediction, target = torch.randn(2, 10, 8, dtype=torch.float64)
    unit_p = prediction / prediction.norm(dim=1, keepdim=True)
    unit_t = target / target.norm(dim=1, keepdim=True)
    expected = (unit_p - unit_t).square().sum(dim=1)
    # Computed in float32: 2 - 2 cos of numbers near 1.
    torch.testing.assert_close(
        regression_loss(prediction, target).double(), expected, atol=2e-6, rtol=0
    )


def test_regression_loss_of_narrow_numbers_is_computed_in_float32() -> None:
    prediction, target = torch.randn(2, 10, 8).bfloat16()
    loss = regression_loss(prediction, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, regression_loss(prediction.float(), target.float()))


def test_loss_is_symmetric_and_uses_each_network_as_written() -> None:
    byol = small_byol()
    # Without dropout, whose mask differs between calls, the loss is a function of the weights.
    for module in byol.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # As after training: no network is the same as another.
    with torch.no_grad():
        for parameter in byol.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    view_1, view_2 = views()
    view_1.requires_grad_()
    loss, embedding = byol(view_1, view_2)
    expected = 0.0
    for own, other in ((view_1, view_2), (view_2, view_1)):
        q = byol.predictor(byol.projector(byol.encoder(own)))
        z = byol.target_projector(byol.target_encoder(other)).detach()
        cosine = (q * z).sum(dim=1) / (q.norm(dim=1) * z.norm(dim=1))
        expected = expected + (2 - 2 * cosine).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(each, view_1)[0] for each in (loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(loss, byol(view_2, view_1)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding, byol.encoder(view_1), atol=1e-5, rtol=0)
    assert not embedding.requires_grad


def test_target_gets_no_gradient_and_online_gets_all() -> None:
    byol = small_byol()
    byol(*views())[0].backward()
    for name, parameter in byol.named_parameters():
        if name.startswith("target"):
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_target_starts_as_a_copy_in_its_own_memory() -> None:
    byol = small_byol()
    parameters = dict(byol.named_parameters())
    targets = [name for name in parameters if name.startswith("target_")]
    assert {name.split(".")[0] for name in targets} == {"target_encoder", "target_projector"}
    for name in targets:
        online, target = parameters[name.removeprefix("target_")], parameters[name]
        assert torch.equal(online, target), name
        assert online.data_ptr() != target.data_ptr(), name


def test_heads_are_two_layers_with_batch_norm_between() -> None:
    byol = small_byol()
    for head, in_dim in ((byol.projector, 16), (byol.predictor, 8)):
        first, norm, _, last = head.double().train()
        x = torch.randn(6, in_dim, dtype=torch.float64)
        hidden = x @ first.weight.T + first.bias
        assert hidden.shape == (6, 32)
        std = (hidden.var(dim=0, correction=0) + 1e-5).sqrt()
        hidden = (hidden - hidden.mean(dim=0)) / std * norm.weight + norm.bias
        expected = hidden.clamp(min=0) @ last.weight.T + last.bias
        assert expected.shape == (6, 8)
        torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("decay", [0.99, 0.5, 0.0, 1.0])
def test_one_ema_step_to_the_last_bit(decay: float) -> None:
    byol = small_byol()
    optimizer = torch.optim.SGD(byol.parameters(), lr=0.5)
    byol(*views())[0].backward()
    optimizer.step()
    names = [name for name, _ in byol.named_parameters() if name.startswith("target")]
    before = {name: byol.get_parameter(name).clone() for name in names}
    byol.update_target(decay)
    moved = 0
    for name in names:
        online = byol.get_parameter(name.removeprefix("target_"))
        expected = torch.lerp(before[name], online, 1 - decay)
        assert torch.equal(byol.get_parameter(name), expected), name
        # And the bits are those of the equation, in float64 rounded once, up to one unit.
        exact = decay * before[name].double() + (1 - decay) * online.double()
        unit = torch.finfo(torch.float32).eps * torch.maximum(before[name].abs(), online.abs())
        assert ((expected.double() - exact).abs() <= unit).all(), name
        moved += int((expected != before[name]).sum())
    assert (moved > 0) == (decay < 1)


@pytest.mark.parametrize("decay", [0.99, 0.0, 1.0])
@pytest.mark.parametrize("is_skipped", [False, True])
def test_ema_of_a_step_that_may_be_skipped(decay: float, is_skipped: bool) -> None:
    skipping, plain = small_byol(), small_byol()
    for byol in (skipping, plain):
        with torch.no_grad():
            for number, parameter in enumerate(byol.encoder.parameters()):
                parameter.add_(number + 0.1)
    before = [each.clone() for each in plain.target_encoder.parameters()]
    if not is_skipped:
        plain.update_target(decay)
    weight = torch.tensor(0.0 if is_skipped else 1 - decay)
    skipping.interpolate_target(weight)
    expected = list(plain.target_encoder.parameters())
    for own, each in zip(skipping.target_encoder.parameters(), expected, strict=True):
        assert torch.equal(own, each)
    # The form for GPUs, whose last bit may differ.
    _interpolate(before, list(plain.encoder.parameters()), weight)
    for own, each in zip(before, expected, strict=True):
        torch.testing.assert_close(own, each, rtol=3e-7, atol=3e-7)


def test_target_keeps_batch_statistics_of_its_own() -> None:
    byol = small_byol()
    byol(*views())
    online, target = byol.encoder.features[1], byol.target_encoder.features[1]
    # Same weights and same views in another order: same statistics up to the running average.
    assert target.num_batches_tracked == online.num_batches_tracked == 2
    with torch.no_grad():
        for parameter in byol.encoder.parameters():
            parameter.mul_(2)
    before = target.running_mean.clone()
    byol.update_target(0.0)
    assert torch.equal(target.running_mean, before)


def test_loss_falls_on_a_handful_of_clips(sounds: Path) -> None:
    torch.manual_seed(0)
    clips = sorted(sounds.glob("*.wav"))[:8]
    waveform = torch.stack([fit_length(read_audio(clip, 16000), 15200) for clip in clips])
    log_mel = LogMelSpectrogram()(waveform)[:, None]
    log_mel = measure_statistics([log_mel]).standardize(log_mel)
    make_views = Views({"random_resized_crop": {}, "randomized_quantization": {}}, post_norm=True)
    byol = BYOL(AudioNTT2020(dim=64), projection_dim=32, hidden_dim=128)
    optimizer = torch.optim.Adam(byol.parameters(), lr=1e-3)
    losses = []
    for step in range(25):
        view_1, view_2 = make_views(log_mel, sample_keys(0, step, torch.arange(8)))
        loss, embedding = byol(view_1, view_2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        byol.update_target(0.99)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    # Not by collapse: the embeddings of different clips still differ.
    assert embedding.std(dim=0).mean() > 0.01


def test_learning_rate_schedules() -> None:
    options = {"peak": 2.0, "warmup_steps": 4, "num_steps": 12}
    constant = [learning_rate(step, schedule="constant", **options) for step in range(12)]
    assert constant == [0.5, 1.0, 1.5] + [2.0] * 9
    cosine = [learning_rate(step, schedule="cosine", **options) for step in range(12)]
    for step in range(4, 12):
        assert cosine[step] == pytest.approx(1 + math.cos(math.pi * (step - 4) / 8))
    assert learning_rate(0, peak=1.0, schedule="cosine", warmup_steps=0, num_steps=5) == 1.0


def test_ema_schedules() -> None:
    assert ema_decay(7, base=0.99, schedule="constant", num_steps=10) == 0.99
    assert ema_decay(0, base=0.99, schedule="cosine", num_steps=10) == pytest.approx(0.99)
    assert ema_decay(5, base=0.99, schedule="cosine", num_steps=10) == pytest.approx(0.995)
    assert ema_decay(10, base=0.99, schedule="cosine", num_steps=10) == 1.0
