"""Randomized quantization of point clouds: python -m examples.points.

Draws clouds of 96 points from ten kinds of surfaces and curves, with random proportions and
orientation and with noise; pretrains a small PointNet (Qi et al., arXiv:1612.00593: one network for
all points, and a maximum) with and without jitter and with quantization, and probes each.
docs/other_data.md has the results.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq import QuantizeAlong
from examples.comparison import compare, parse_options

NUM_POINTS, CLOUDS = 96, 200  # per cloud; per kind


class SmallPointNet(nn.Module):
    """Two layers on each point and the maximum over points: `(B, N, 3)` -> `(B, 128)`."""

    embedding_dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Linear(32, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
        )  # fmt: skip

    def forward(self, points: Tensor) -> Tensor:
        """Embed clouds, `(B, N, 3)`, independent of the order of their points."""
        features: Tensor = self.layers(points.flatten(0, 1))
        return features.view(*points.shape[:2], -1).amax(1)


def draw_shapes() -> dict[str, Tensor]:
    """Draw clouds `(CLOUDS, NUM_POINTS, 3)` of each kind, with axes aligned."""
    u, v = torch.rand(2, CLOUDS, NUM_POINTS)
    a = torch.rand(CLOUDS, 1)  # the proportion
    angle, height, flat = 2 * math.pi * u, 2 * v - 1, torch.zeros_like(u)
    sides = 0.5 + torch.rand(CLOUDS, 1, 3)
    axis = torch.randint(3, (CLOUDS, NUM_POINTS, 1))
    cube = 2 * torch.rand(CLOUDS, NUM_POINTS, 3) - 1

    def turned(radius: Tensor, z: Tensor, angle: Tensor = angle) -> Tensor:
        return torch.stack((radius * angle.cos(), radius * angle.sin(), z), -1)

    tube, half_width = 0.2 + 0.3 * a, (0.2 + 0.3 * a) * height
    return {
        "ellipsoid": F.normalize(torch.randn_like(cube), dim=-1) * sides,
        "box": cube.scatter(-1, axis, height.sign()[..., None]) * sides,
        "cross": torch.zeros_like(cube).scatter(-1, axis, height[..., None]) * sides,
        "cylinder": turned(torch.ones_like(u), height * (0.5 + a)),
        "cone": turned(v.sqrt(), (1 - v.sqrt()) * (1 + a)),
        "torus": turned(1 + tube * (math.pi * height).cos(), tube * (math.pi * height).sin()),
        "ring": turned((a + (1 - a) * v).sqrt(), flat),
        "helix": turned(torch.ones_like(u), (2 * u - 1) * (0.5 + a), angle * (1 + 2 * a)),
        "Moebius strip": turned(1 + half_width * (angle / 2).cos(), half_width * (angle / 2).sin()),
        "saddle": torch.stack((cube[..., 0], height, (cube[..., 0] ** 2 - height**2) * a), -1),
    }


def jitter(clouds: Tensor) -> Tensor:
    """Scale each axis by 0.8 to 1.25, and add noise of 0.03 of the radius to each point."""
    scale = torch.empty(len(clouds), 1, 3).uniform_(0.8, 1.25)
    return clouds * scale + 0.03 * torch.randn_like(clouds)


def main() -> None:
    """Compare four ways of making views."""
    options = parse_options(__doc__, steps=200)
    torch.manual_seed(0)
    clouds = torch.cat(list(draw_shapes().values()))
    labels = torch.arange(len(clouds)) // CLOUDS
    rotations, _ = torch.linalg.qr(torch.randn(len(clouds), 3, 3))
    clouds = (clouds - clouds.mean(1, keepdim=True)) @ rotations
    clouds = clouds / clouds.norm(dim=-1).amax(1)[:, None, None]  # of radius 1
    clouds += 0.03 * torch.randn_like(clouds)
    quantize = QuantizeAlong(num_bins=30, channel_dim=-1, sample_ndim=2)  # the paper's K
    compare(
        clouds,
        labels,
        make_encoder=SmallPointNet,
        variants={
            "none": (),
            "quantization": (quantize,),
            "jitter": (jitter,),
            "jitter + quantization": (jitter, quantize),
        },
        plain=("sorted coordinates", clouds.sort(dim=1).values.flatten(1)),
        options=options,
    )


if __name__ == "__main__":
    main()
