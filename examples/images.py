"""Randomized quantization of images: python -m examples.images.

Pretrains a small convolutional network on scikit-learn's digits (1,797 images of 8 x 8, by 13
writers) with and without a crop, with DACL and with quantization, and probes each.
docs/other_data.md has the results.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from byola_rq import DACL, QuantizeAlong
from examples.comparison import compare, parse_options


class SmallConvNet(nn.Sequential):
    """Three convolutions and global average pooling: `(B, 1, 8, 8)` -> `(B, 64)`."""

    embedding_dim = 64

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for num_in, num_out, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 1)):
            layers.append(nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(num_out), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def crop(images: Tensor) -> Tensor:
    """Resize a random square of 60 to 100 % of the width to full size; never flip a digit."""
    scale = torch.empty(len(images)).uniform_(0.6, 1)
    boxes = torch.zeros(len(images), 2, 3)
    boxes[:, 0, 0] = boxes[:, 1, 1] = scale
    boxes[:, :, 2] = (2 * torch.rand(len(images), 2) - 1) * (1 - scale)[:, None]
    grid = F.affine_grid(boxes, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def main() -> None:
    """Compare six ways of making views."""
    options = parse_options(__doc__, steps=250)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16  # (N, 1, 8, 8)
    quantize = QuantizeAlong(num_bins=8, channel_dim=-3, sample_ndim=3)  # the paper's K
    compare(
        images,
        torch.from_numpy(digits.target),
        make_encoder=SmallConvNet,
        variants={
            "none": (),
            "DACL": (DACL(),),
            "quantization": (quantize,),
            "crop": (crop,),
            "crop + DACL": (crop, DACL()),
            "crop + quantization": (crop, quantize),
        },
        plain=("pixels", images.flatten(1)),
        options=options,
    )


if __name__ == "__main__":
    main()
