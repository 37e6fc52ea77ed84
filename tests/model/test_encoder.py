"""Encoders: sizes counted by hand, published names, what pooling and blocks compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq.model.encoder import AudioNTT2020, AudioNTT2022, build_encoder, pool_over_time


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def block(channels: int) -> int:
    return (9 * channels + 1) * 64 + 2 * 64  # convolution with bias, batch norm


def test_parameter_counts() -> None:
    paper = block(1) + 2 * block(64) + linear(8 * 64, 2048) + linear(2048, 2048)
    assert count(build_encoder("audio_ntt_2020", dim=2048, n_mels=64)) == paper == 5_321_856
    v2 = block(1) + block(64) + linear(16 * 64, 2048) + linear(2048, 3072 - 1024)
    assert count(build_encoder("audio_ntt_2022", dim=3072, n_mels=64)) == v2 == 6_333_376


def test_parameter_names_are_the_published_ones() -> None:
    def names(blocks: int) -> set[str]:
        found = {f"fc.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")}
        for i in range(blocks):
            found |= {f"features.{4 * i}.{kind}" for kind in ("weight", "bias")}
            statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            found |= {f"features.{4 * i + 1}.{kind}" for kind in statistics}
        return found

    assert set(AudioNTT2020(dim=512).state_dict()) == names(3)
    assert set(AudioNTT2022().state_dict()) == names(2)


def published_order(features: nn.Sequential, x: Tensor) -> Tensor:
    """Convolution, batch norm, ReLU, then pooling, as the papers draw the block."""
    for i in range(0, len(features), 4):
        x = F.max_pool2d(F.relu(features[i + 1](features[i](x))), 2)
    return x


@pytest.mark.parametrize("num_frames", [96, 97, 103, 8])
def test_frames_are_the_paper_s_layers(num_frames: int) -> None:
    x = torch.randn(2, 1, 64, num_frames)
    for encoder, kept in ((AudioNTT2020(dim=32).eval(), 0), (AudioNTT2022(dim=1056).eval(), 1024)):
        features = published_order(encoder.features, x)  # (B, C, F', T')
        num_embeddings = num_frames // encoder.frames_per_embedding
        assert features.shape[-1] == num_embeddings
        frames = encoder.frames(x)
        for t in range(num_embeddings):
            flat = torch.cat([features[:, :, band, t] for band in range(features.shape[2])], dim=1)
            hidden = F.relu(F.linear(flat, encoder.fc[0].weight, encoder.fc[0].bias))
            out = F.relu(F.linear(hidden, encoder.fc[3].weight, encoder.fc[3].bias))
            expected = torch.cat((flat, out), dim=1) if kept else out
            torch.testing.assert_close(frames[:, t], expected, atol=1e-5, rtol=1e-5)


def test_pooling_is_maximum_plus_mean() -> None:
    frames = torch.randn(3, 12, 5)
    pooled = pool_over_time(frames)
    for b in range(3):
        for d in range(5):
            track = frames[b, :, d].tolist()
            assert pooled[b, d].item() == pytest.approx(max(track) + sum(track) / 12, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"name": "resnet", "dim": 512, "n_mels": 64}, "'resnet'"),
        ({"name": "audio_ntt_2020", "dim": 0, "n_mels": 64}, r"^encoder\.dim .* 0$"),
        ({"name": "audio_ntt_2022", "dim": 1024, "n_mels": 64}, r"^encoder\.dim .*1025.* 1024$"),
        ({"name": "audio_ntt_2020", "dim": 8, "n_mels": 60}, "^n_mels .* 60$"),
    ],
)
def test_wrong_sizes_are_refused(arguments: dict[str, object], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        build_encoder(**arguments)  # type: ignore[arg-type]
