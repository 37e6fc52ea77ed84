"""Fine-tuning against loops of the tests' own, on small encoders and on ours."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from byola_rq.errors import ByolaRQError
from byola_rq.model.encoder import build_encoder
from evaluate.probes.adam import AdamProbe
from evaluate.probes.finetune import Rules, finetune
from evaluate.probes.tuned import LabelledClips, crop_in_time
from tests.refusal import refused

FRAMES = 16
# One rate and seed, no crops: what is compared with a loop over whole clips.
PLAIN = Rules(encoder_lrs=(0.0,), num_seeds=1, max_shift=0.0, max_epochs=6, batch_size=64)


class Bands(nn.Module):
    """Weighted means over time, `(B, 1, F, T)` to `(B, F)`; at first the means themselves."""

    def __init__(self, embedding_dim: int = 8) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.weights = nn.Parameter(torch.ones(embedding_dim))

    def forward(self, log_mel):
        return self.weights * log_mel.mean(dim=(1, 3))


def make_clips(num_train=40, num_valid=24, num_classes=3, noise=0.3, targets=None):
    """Classes of bands with noise, and the log-mels themselves `(N, 1, F, T)`."""
    generator = np.random.default_rng(0)
    count = num_train + num_valid
    labels = np.arange(count) % num_classes
    levels = generator.normal(size=(num_classes, 8))[labels]
    log_mels = levels[:, None, :, None] + noise * generator.normal(size=(count, 1, 8, FRAMES))
    log_mels = torch.from_numpy(log_mels.astype(np.float32))

    def batches(positions, batch_size):
        for start in range(0, len(positions), batch_size):
            batch = list(positions[start : start + batch_size])
            yield batch, log_mels[batch]

    train, valid = np.split(np.arange(count), [num_train])
    targets = labels if targets is None else targets
    return LabelledClips(batches, targets, train, valid, silence=0.0), log_mels


def tune(encoder, clips, rules, seed=0):
    return list(finetune(encoder, clips, rules=rules, seed=seed, device="cpu"))


def test_a_still_encoder_gives_the_weights_of_the_adam_probe():
    """Train on all clips in a batch, so that batch norm equals the scaler of the training clips."""
    clips, log_mels = make_clips()
    features = log_mels.mean(dim=(1, 3)).numpy()
    scaled = (features - features[:40].mean(axis=0)) / features[:40].std(axis=0)
    (tuned,) = tune(Bands(), clips, PLAIN, seed=3)
    epochs = tuned.params["best_epoch"]
    probe = AdamProbe(seed=3, batch_size=64, max_epochs=epochs, patience=100)
    # Validated on a clip that the layer of every epoch gets right or wrong alike: the last counts.
    probe.fit(scaled[:40], clips.targets[:40], scaled[:1], np.array([7]))
    assert probe.best_epoch_ == epochs >= 1
    layer = tuned.network.layer
    # Batch norm adds 1e-5 to variances of about 1, and steps of Adam are 1e-3 each.
    torch.testing.assert_close(layer.weight, probe.layer_.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.bias, probe.layer_.bias, rtol=0, atol=1e-5)
    assert torch.equal(tuned.network.encoder.weights, torch.ones(8))


def test_training_and_validation_are_those_of_a_plain_loop():
    """Three epochs of one batch each, by hand: gradients, statistics, scores, the best epoch."""
    clips, log_mels = make_clips(noise=4.0)
    rules = dataclasses.replace(PLAIN, encoder_lrs=(0.02,), max_epochs=3, batch_size=40)
    (tuned,) = tune(Bands(), clips, rules, seed=1)

    generator = torch.Generator().manual_seed(1)
    weights = torch.ones(8, requires_grad=True)
    bound = 8**-0.5
    matrix = torch.empty(3, 8).uniform_(-bound, bound, generator=generator).requires_grad_()
    bias = torch.empty(3).uniform_(-bound, bound, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [weights], "lr": 0.02}, {"params": [matrix, bias]}])
    means = log_mels.mean(dim=(1, 3))
    targets = torch.from_numpy(clips.targets)
    tracked, seen = [], []
    for _ in range(3):
        torch.randperm(40, generator=generator)  # the order, which a whole batch does not feel
        embeddings = weights * means[:40]
        mean, variance = embeddings.mean(0), embeddings.var(0, correction=0)
        logits = (embeddings - mean) / (variance + 1e-5).sqrt() @ matrix.T + bias
        loss = nn.functional.cross_entropy(logits, targets[:40])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tracked.append((mean.detach(), embeddings.detach().var(0)))
        # Of the batches so far each counts alike.
        mean, variance = (torch.stack(each).mean(0) for each in zip(*tracked, strict=True))
        with torch.no_grad():
            logits = (weights * means - mean) / (variance + 1e-5).sqrt() @ matrix.T + bias
        right = (logits[40:].argmax(1) == targets[40:]).float().mean().item()
        seen.append((right, logits.numpy()))
    best = max(range(3), key=lambda epoch: (seen[epoch][0], epoch))
    assert tuned.params == {"encoder_lr": 0.02, "lr": 1e-3, "epochs": 3, "best_epoch": best + 1}
    assert tuned.valid_score == pytest.approx(seen[best][0])
    said = tuned.scores(range(64))
    np.testing.assert_allclose(said, softmax(seen[best][1], axis=1), atol=1e-4)


def test_the_best_epoch_is_restored_and_patience_ends_it():
    clips, _ = make_clips(noise=6.0)
    rules = dataclasses.replace(PLAIN, encoder_lrs=(0.3,), max_epochs=40, patience=4, batch_size=8)
    (tuned,) = tune(Bands(), clips, rules)
    assert tuned.params["epochs"] == tuned.params["best_epoch"] + 4 < 40
    right = tuned.scores(clips.valid).argmax(axis=1) == clips.targets[clips.valid]
    assert right.mean() == pytest.approx(tuned.valid_score)
    stopped = dataclasses.replace(rules, max_epochs=tuned.params["best_epoch"])
    (again,) = tune(Bands(), clips, stopped)
    np.testing.assert_array_equal(again.scores(clips.valid), tuned.scores(clips.valid))


def test_rates_are_chosen_on_validation_and_the_smallest_of_equals():
    clips, _ = make_clips()
    rules = dataclasses.replace(PLAIN, encoder_lrs=(1e-5, 1e-3), lr=0.1, num_seeds=3, max_epochs=9)
    tuned = tune(Bands(), clips, rules, seed=4)
    assert [(each.seed, each.params["encoder_lr"]) for each in tuned] == [
        (4, 1e-5), (5, 1e-5), (6, 1e-5),
    ]  # fmt: skip
    assert tuned[0].valid_score == 1
    # Where bands are silenced only an encoder that moves can tell the classes apart.
    deaf = Bands()
    deaf.weights.data.zero_()
    (tuned, *_) = tune(deaf, clips, dataclasses.replace(rules, encoder_lrs=(0.0, 0.01)))
    assert tuned.params["encoder_lr"] == 0.01
    assert not deaf.weights.any()  # what was given stays as it was


def test_gradients_reach_our_encoder_and_seeds_decide_everything():
    clips, _ = make_clips(num_train=8, num_valid=4)
    encoder = build_encoder("audio_ntt_2020", dim=8, n_mels=8).eval().requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    rules = Rules(encoder_lrs=(1e-3,), num_seeds=2, max_epochs=2, batch_size=8)
    torch.manual_seed(1)
    first = tune(encoder, clips, rules)
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    second = tune(encoder, clips, rules)
    assert torch.equal(torch.rand(3), expected)  # the global random state is left alone
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.scores(range(12)), b.scores(range(12)))
    assert not np.array_equal(first[0].scores(range(12)), first[1].scores(range(12)))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])
    for key, weights in first[0].network.encoder.named_parameters():
        # Adam moves whatever has a gradient by about the rate; a bias before batch norm has none.
        if "features" not in key or not key.endswith("bias"):
            assert not torch.equal(weights, before[key]), key


def test_clips_of_several_classes():
    generator = np.random.default_rng(0)
    targets = generator.random((64, 3)) < 0.4
    targets[:, 2] &= np.arange(64) >= 40  # a class without training clips
    clips, log_mels = make_clips(targets=targets)
    log_mels += 3 * torch.from_numpy(targets.astype(np.float32)).repeat(1, 3)[:, None, :8, None]
    rules = dataclasses.replace(PLAIN, encoder_lrs=(1e-3,), lr=0.05, max_epochs=20, batch_size=16)
    (tuned,) = tune(Bands(), clips, rules)
    said = tuned.scores(clips.valid)
    assert np.all(said[:, 2] == -np.inf)
    assert np.all((said[:, :2] >= 0) & (said[:, :2] <= 1))
    assert tuned.valid_score > 0.8


def test_divergence_is_reported_and_a_rate_that_converges_is_taken():
    clips, log_mels = make_clips()
    rules = dataclasses.replace(PLAIN, encoder_lrs=(1e-3, float("inf")), max_epochs=2)
    (tuned,) = tune(Bands(), clips, rules)
    assert tuned.params["encoder_lr"] == 1e-3
    log_mels[3] = torch.nan
    with refused(ByolaRQError, "diverged"):
        tune(Bands(), clips, rules)


def test_epochs_add_up_whenever_training_stops():
    clips, _ = make_clips(noise=6.0)
    rules = dataclasses.replace(
        PLAIN, encoder_lrs=(0.1, 0.3), num_seeds=2, max_epochs=9, patience=1
    )
    counts: list[int] = []
    list(finetune(Bands(), clips, rules=rules, seed=0, device="cpu", on_epochs=counts.append))
    assert sum(counts) == rules.num_epochs == 27


def test_a_last_clip_alone_is_passed_over():
    clips, _ = make_clips(num_train=9)
    (tuned,) = tune(Bands(), clips, dataclasses.replace(PLAIN, batch_size=8))
    assert tuned.num_train == 9
    one = dataclasses.replace(clips, train=clips.train[:1], targets=np.ones((33, 1), bool))
    with pytest.raises(ValueError, match="2 training clips"):
        tune(Bands(), one, PLAIN)


def test_crops_are_of_the_clip_and_of_silence():
    log_mel = torch.arange(1.0, 101.0).expand(64, 1, 3, 100)
    crops = crop_in_time(log_mel, 96, 0.1, silence=-7.0, generator=np.random.default_rng(0))
    assert crops.shape == (64, 1, 3, 96)
    starts = set()
    for crop in crops[:, 0]:
        assert torch.equal(crop[0], crop[2])
        sound = crop[0] > 0
        start = int(crop[0][sound][0] - 1) - int(sound.nonzero()[0])
        expected = [value if 0 < value <= 100 else -7.0 for value in range(start + 1, start + 97)]
        assert crop[0].tolist() == expected
        starts.add(start)
    assert min(starts) >= -10
    assert max(starts) <= 14
    assert len(starts) > 12  # of the 25 there are
    whole = crop_in_time(log_mel, 100, 0.0, silence=0.0, generator=np.random.default_rng(0))
    assert torch.equal(whole, log_mel)
