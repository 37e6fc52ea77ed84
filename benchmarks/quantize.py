"""Speed of quantizing log-mel bands, compared with masks as in the paper and with torch's ways.

Run from the checkout: python -m benchmarks.quantize --help
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.harness import (
    Contender,
    Device,
    LogMels,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
    open_device,
    timed,
)
from byola_rq.augment.quantize import QuantizationBins, RandomizedQuantization
from byola_rq.runtime.rng import sample_keys

app = new_app()

BINS = 5


@app.command()
def main(
    batch: LogMels = 256,
    rounds: Rounds = 9,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Quantize a batch into 5 bins for each band, in three tables.

    \b
    1  drawing and applying: ours, and eq. 1-4 literally: a mask for each bin, times its value,
       summed over the bins, with torch's random numbers; a copy, as the limit. Ours is drawn and
       applied one after the other, and called, which on a GPU is one kernel
    2  applying drawn numbers: ours and other formulations in torch, all with equal results
    3  ours by number of bins; ratios to the first

    `ms` is the median time per batch.

    \b
    Examples:
      python -m benchmarks.quantize
      python -m benchmarks.quantize --device cuda --out quantize.json
    """
    place = open_device(device)
    report = Report()
    x, key = draw_batch(batch, place)
    report.add("1 drawn and applied", compare_whole(x, key, rounds))
    report.add("2 applied", compare_ways(x, key, rounds))
    report.add("3 number of bins", compare_bins(x, key, rounds))
    report.save(out)


def draw_batch(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw log-mels of random numbers, `(B, 1, 64, 96)`, and their keys."""
    x = torch.randn(size, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    return x.to(device), sample_keys(0, 0, torch.arange(size)).to(device)


def race(works: Mapping[str, Callable[[], object]], x: Tensor, rounds: int) -> list[Row]:
    """Compare rates and milliseconds of functions that process the batch once."""

    def contender(work: Callable[[], object]) -> Contender:
        def units() -> float:
            work()
            return len(x)

        return timed(units, x.device)

    rows = compare(
        {name: contender(work) for name, work in works.items()}, unit="segments", rounds=rounds
    )
    for row in rows:
        row["ms"] = 1000 * len(x) / row["segments/s"]
    return rows


def compare_whole(x: Tensor, key: Tensor, rounds: int) -> list[Row]:
    """Compare with the equations, which come first, so that ratios are factors over them."""
    ours = RandomizedQuantization(BINS)
    return race(
        {
            "one mask per bin": lambda: one_mask_per_bin(x, BINS),
            "ours": lambda: ours.apply(x, ours.draw(x, key)),
            "ours, drawing only": lambda: ours.draw(x, key),
            "ours, called": lambda: ours(x, key),
            "ours, unchecked": lambda: ours.augment(x, key),
            "copy": x.clone,
        },
        x,
        rounds,
    )


def one_mask_per_bin(x: Tensor, num_bins: int) -> Tensor:
    """Quantize by eq. 1-4 of arXiv:2212.08663: y = sum over bins of value * [x in bin]."""
    rows = x[:, 0, :, None]  # (B, F, 1, T)
    low, high = rows.amin(dim=-1, keepdim=True), rows.amax(dim=-1, keepdim=True)
    inner = low + torch.rand(*rows.shape[:2], num_bins - 1, 1, device=x.device) * (high - low)
    corners = torch.cat((low, inner.sort(dim=2).values, high), dim=2)  # (B, F, K + 1, 1)
    start, end = corners[:, :, :-1], corners[:, :, 1:]
    values = start + torch.rand(start.shape, device=x.device) * (end - start)
    is_last = torch.arange(num_bins, device=x.device)[:, None] == num_bins - 1
    masks = (rows >= start) & ((rows < end) | (is_last & (rows == end)))  # (B, F, K, T)
    return (masks * values).sum(dim=2)[:, None]


def compare_ways(x: Tensor, key: Tensor, rounds: int) -> list[Row]:
    """Compare other formulations, which must give exactly our bits."""
    ours = RandomizedQuantization(BINS)
    drawn = ours.draw(x, key)
    ways: dict[str, Callable[[Tensor, QuantizationBins], Tensor]] = {
        "searchsorted, gather": by_searchsorted,
        "ours": ours.apply,
        "chain of where": by_where,
        "masks counted in bytes, gather": by_count,
        "masks counted, index_select": by_index_select,
        "differences of the values' bits": by_bits,
        "lerp, in pieces": by_lerp_in_pieces,
    }
    for way in ways.values():
        assert torch.equal(way(x, drawn), ours.apply(x, drawn))
    return race({name: lambda way=way: way(x, drawn) for name, way in ways.items()}, x, rounds)  # type: ignore[misc]


def by_searchsorted(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Look up the bin's index."""
    index = torch.searchsorted(drawn.edges, x[:, 0].contiguous(), right=True)
    return drawn.values.gather(-1, index)[:, None]


def by_where(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Choose once per edge."""
    rows, result = x[:, 0], drawn.values[..., :1]
    for k in range(drawn.edges.shape[-1]):
        result = torch.where(
            rows >= drawn.edges[..., k, None], drawn.values[..., k + 1, None], result
        )
    return result[:, None]


def count_edges(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Count edges at or below each element, in bytes."""
    rows = x[:, 0]
    count = (rows >= drawn.edges[..., :1]).view(torch.uint8)
    for k in range(1, drawn.edges.shape[-1]):
        count += (rows >= drawn.edges[..., k, None]).view(torch.uint8)
    return count


def by_count(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Count edges for the index, instead of a search."""
    return drawn.values.gather(-1, count_edges(x, drawn).long())[:, None]


def by_index_select(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Look up counted indices in one long table by 32-bit indices."""
    num_rows, num_bins = drawn.values[..., 0].numel(), drawn.values.shape[-1]
    first = torch.arange(num_rows, dtype=torch.int32, device=x.device) * num_bins
    index = count_edges(x, drawn) + first.reshape(*drawn.values.shape[:2], 1)
    return drawn.values.flatten().index_select(0, index.flatten()).reshape(x.shape)


def by_bits(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Add differences of values as integers, which is exact."""
    rows, bits = x[:, 0], drawn.values.view(torch.int32)
    steps = bits.diff(dim=-1)
    result = (rows >= drawn.edges[..., :1]) * steps[..., :1]
    for k in range(1, steps.shape[-1]):
        result += (rows >= drawn.edges[..., k, None]) * steps[..., k, None]
    return (result + bits[..., :1]).view(torch.float32)[:, None]


def by_lerp_in_pieces(x: Tensor, drawn: QuantizationBins) -> Tensor:
    """Use lerp as ours does on a CPU, in pieces that fit its second-level cache."""
    ours, result = RandomizedQuantization(BINS), torch.empty_like(x)
    for first in range(0, len(x), 32):
        piece = slice(first, first + 32)
        parts = (drawn.edges[piece], drawn.values[piece], drawn.is_applied[piece])
        result[piece] = ours.apply_parameters(x[piece], QuantizationBins(*parts))
    return result


def compare_bins(x: Tensor, key: Tensor, rounds: int) -> list[Row]:
    """Compare numbers of bins."""

    def work(num_bins: int) -> Callable[[], object]:
        ours = RandomizedQuantization(num_bins)
        return lambda: ours.apply(x, ours.draw(x, key))

    return race({f"{number} bins": work(number) for number in (2, 5, 8, 15, 30)}, x, rounds)


if __name__ == "__main__":
    app()
