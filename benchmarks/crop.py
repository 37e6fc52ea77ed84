"""Speed of cropping and resizing log-mels, compared with a per-sample loop and torch's functions.

Run from the checkout: python -m benchmarks.crop --help
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Device, LogMels, Out, Report, Rounds, Row, new_app, open_device
from benchmarks.quantize import draw_batch, race
from byola_rq.augment.crop import CropBoxes, RandomResizedCrop, _cubic_weights

app = new_app()


@app.command()
def main(
    batch: LogMels = 256,
    rounds: Rounds = 9,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Crop and resize a batch with the recipe's options, by embedding bags and by other ways.

    The loop cuts each sample out of its canvas and calls F.interpolate: the definition. `worst` is
    the largest difference from it, `ms` the median time per batch. Boxes are drawn in advance,
    except in the second to fourth row; `called` runs as one kernel on a GPU.

    \b
    Examples:
      python -m benchmarks.crop
      python -m benchmarks.crop --device cuda --out crop.json
    """
    place = open_device(device)
    report = Report()
    x, key = draw_batch(batch, place)
    report.add("random resized crop", compare_ways(x, key, rounds))
    report.save(out)


def compare_ways(x: Tensor, key: Tensor, rounds: int) -> list[Row]:
    """Compare ways to crop; the loop comes first, so that ratios are factors over it."""
    crop = RandomResizedCrop()
    boxes = crop.draw(x, key)
    works: dict[str, Callable[[], Tensor]] = {
        "loop over samples": lambda: by_loop(x, boxes),
        "ours, boxes drawn too": lambda: crop.apply(x, crop.draw(x, key)),
        "ours, called": lambda: crop(x, key),
        "ours, unchecked": lambda: crop.augment(x, key),
        "ours": lambda: crop.apply(x, boxes),
        "eight gathers": lambda: by_gathers(x, boxes),
        "eight index_selects": lambda: by_index_select(x, boxes),
        "two matrix products": lambda: by_products(x, boxes),
        "copy": x.clone,
    }
    rows = race(works, x, rounds)
    expected = by_loop(x, boxes)
    for row in rows:
        row["worst"] = (works[row["name"]]() - expected).abs().max().item()
    rows[-1]["worst"] = "-"
    return rows


def by_loop(x: Tensor, boxes: CropBoxes) -> Tensor:
    """Paste on the canvas, cut and resize bicubically, sample by sample."""
    (tall, wide), (num_bands, num_frames) = boxes.canvas, x.shape[-2:]
    canvas = x.new_zeros(len(x), 1, tall, wide)
    top, left = (tall - num_bands) // 2, (wide - num_frames) // 2
    canvas[..., top : top + num_bands, left : left + num_frames] = x
    places = torch.stack((boxes.top, boxes.left, boxes.height, boxes.width), dim=1).tolist()
    resized = [
        F.interpolate(
            canvas[i : i + 1, :, y : y + height, x0 : x0 + width],
            size=(num_bands, num_frames),
            mode="bicubic",
            align_corners=True,
        )
        for i, (y, x0, height, width) in enumerate(places)
    ]
    return torch.cat(resized)


def find_taps(start: Tensor, size: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return places and weights of the four taps of each output, `(B, length, 4)`."""
    position = torch.arange(length, device=size.device) * ((size - 1) / (length - 1))[:, None]
    below = position.floor()
    weights = torch.stack(_cubic_weights(position - below), dim=-1)
    place = (below.long()[..., None] + torch.arange(-1, 3, device=size.device)).clamp(min=0)
    place = place.minimum(size[:, None, None] - 1) + start[:, None, None]
    weights = weights * ((place >= 0) & (place < length))
    return place.clamp(0, length - 1), weights


def both_taps(x: Tensor, boxes: CropBoxes) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the taps of bands and of frames."""
    num_bands, num_frames = x.shape[-2:]
    top = boxes.top - (boxes.canvas[0] - num_bands) // 2
    left = boxes.left - (boxes.canvas[1] - num_frames) // 2
    return find_taps(top, boxes.height, num_bands), find_taps(left, boxes.width, num_frames)


def by_gathers(x: Tensor, boxes: CropBoxes) -> Tensor:
    """Gather element by element, one tap at a time."""
    (band, band_weight), (frame, frame_weight) = both_taps(x, boxes)
    rows = torch.zeros_like(x)
    for k in range(4):
        index = band[:, None, :, k, None].expand_as(x)
        rows += x.gather(-2, index) * band_weight[:, None, :, k, None]
    result = torch.zeros_like(x)
    for k in range(4):
        index = frame[:, None, None, :, k].expand_as(x)
        result += rows.gather(-1, index) * frame_weight[:, None, None, :, k]
    return result


def by_index_select(x: Tensor, boxes: CropBoxes) -> Tensor:
    """Select whole rows, one tap at a time, transposing in between."""

    def resize(planes: Tensor, place: Tensor, weight: Tensor) -> Tensor:
        first = torch.arange(len(planes), device=x.device)[:, None, None] * planes.shape[1]
        rows, index = planes.reshape(-1, planes.shape[-1]), (place + first).reshape(-1, 4)
        result = torch.zeros_like(rows)
        for k in range(4):
            result.addcmul_(rows.index_select(0, index[:, k]), weight.reshape(-1, 4)[:, k, None])
        return result.reshape(planes.shape)

    bands, frames = both_taps(x, boxes)
    return resize(resize(x[:, 0].mT, *frames).mT, *bands)[:, None]


def by_products(x: Tensor, boxes: CropBoxes) -> Tensor:
    """Multiply by two small interpolation matrices per sample; bits depend on the batch."""

    def matrix(place: Tensor, weight: Tensor) -> Tensor:
        length = place.shape[1]
        return x.new_zeros(len(x), length, length).scatter_add_(2, place, weight)

    bands, frames = both_taps(x, boxes)
    return (matrix(*bands) @ x[:, 0] @ matrix(*frames).mT)[:, None]


if __name__ == "__main__":
    app()
