"""Speed of making both views of a batch, and bytes moved through memory.

Run from the checkout: python -m benchmarks.views --help
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.crop import by_loop
from benchmarks.harness import Device, LogMels, Out, Report, Rounds, Row, new_app, open_device
from benchmarks.quantize import BINS, draw_batch, one_mask_per_bin, race
from byola_rq.augment.crop import RandomResizedCrop
from byola_rq.augment.views import Views
from byola_rq.runtime.rng import fold_in

app = new_app()

CHAIN: dict[str, dict[str, Any]] = {"random_resized_crop": {}, "randomized_quantization": {}}
GENERAL: dict[str, dict[str, Any]] = {
    "mixup": {},
    "random_resized_crop": {},
    "random_linear_fader": {},
    "randomized_quantization": {},
}
BANDWIDTH = 3.0e12  # bytes per second of an H100's memory


@app.command()
def main(
    batch: LogMels = 256,
    rounds: Rounds = 9,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Make both views of a batch with the recipe's options, in two tables.

    \b
    1  ours (on a GPU both the kernel and the plain path), also with all four augmentations, and the
       straightforward way: a loop over samples to crop, a mask for each bin, torch's random
       numbers; two copies, as the limit
    2  bytes read and written by each, every operation's tensors once, without registers;
       `expected` is their time at 3.0 TB/s, not a measurement

    \b
    Examples:
      python -m benchmarks.views
      python -m benchmarks.views --device cuda --out views.json
    """
    place = open_device(device)
    report = Report("triton")
    x, key = draw_batch(batch, place)
    with torch.no_grad():
        works = list_ways(x, key)
        report.add("1 two views of a batch", race(works, x, rounds))
        report.add("2 bytes moved, counted", count_bytes(works, x))
    report.save(out)


def list_ways(x: Tensor, key: Tensor) -> dict[str, Callable[[], object]]:
    """Return ways to make the views, the straightforward one first."""

    def ours(
        chain: dict[str, dict[str, Any]] = CHAIN, *, post_norm: bool = False, is_plain: bool = False
    ) -> Callable[[], object]:
        views = Views(chain, post_norm=post_norm)
        if is_plain:
            views.fused.kernels.device_types = set()
        return lambda: views(x, key)

    ways: dict[str, Callable[[], object]] = {
        "straightforward": lambda: straightforward(x, key),
        "ours": ours(),
        "ours, post-norm too": ours(post_norm=True),
        "ours, mixup and fader too": ours(GENERAL),
        "two copies": lambda: (x.clone(), x.clone()),
    }
    if Views(CHAIN, post_norm=False).fused(x, key) is not None:
        ways["ours, plain path"] = ours(is_plain=True)
        ways["ours, mixup and fader too, plain path"] = ours(GENERAL, is_plain=True)
    return ways


def straightforward(x: Tensor, key: Tensor) -> list[Tensor]:
    """Make both views by the definitions."""
    crop = RandomResizedCrop()
    boxes = [crop.draw(x, fold_in(key, view)) for view in (1, 2)]
    return [one_mask_per_bin(by_loop(x, each), BINS) for each in boxes]


def count_bytes(works: dict[str, Callable[[], object]], x: Tensor) -> list[Row]:
    """Count the megabytes of each way; those of the kernel from its input and output."""
    rows: list[Row] = [{"name": "the kernel", "MB": megabytes_of_kernel(x)}]
    for name, work in works.items():
        with _Counting() as counting:
            work()
        # On a GPU ours is one kernel, whose tensors no dispatcher sees.
        if x.device.type == "cpu" or not name.startswith("ours") or "plain" in name:
            rows.append({"name": name, "MB": sum(counting.moved.values()) / 1e6})
    for row in rows:
        row["ratio"] = row["MB"] / rows[0]["MB"]
        row["expected us on an H100"] = row["MB"] * 1e12 / BANDWIDTH
    return rows


def megabytes_of_kernel(x: Tensor) -> float:
    """Megabytes of the input once (both views share the second-level cache) and of the views."""
    return (3 * x.numel() * x.element_size() + 2 * len(x) * 8) / 1e6


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of tensors that operations take and return; views of tensors are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in ("empty", "_unsafe_view"):
            inputs = {name: value for name, value in (kwargs or {}).items() if name != "out"}
            tensors = tree_leaves((args, inputs, result))
            self.moved[str(func)] += sum(map(_bytes_of, tensors))
        return result


def _bytes_of(value: object) -> int:
    """Size in memory; repeated dimensions count once."""
    if not isinstance(value, Tensor):
        return 0
    sizes = [size for size, stride in zip(value.shape, value.stride(), strict=True) if stride]
    return math.prod(sizes) * value.element_size()


if __name__ == "__main__":
    app()
