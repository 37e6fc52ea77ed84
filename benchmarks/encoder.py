"""Speed of the encoders: forward for embeddings, forward and backward for training.

Run from the checkout: python -m benchmarks.encoder --help
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from benchmarks.harness import (
    Device,
    Full,
    Out,
    PrecisionOption,
    Report,
    Rounds,
    compare,
    new_app,
    open_device,
    timed,
    usual_precision,
)
from benchmarks.plain_step import PlainEncoder
from benchmarks.step import unfuse, unfuse_first, use_torch_linear
from byola_rq.model.encoder import build_encoder
from byola_rq.runtime.device import Precision, float32_products

app = new_app()
BANDS = 64


@app.command()
def main(
    *,
    batch: Annotated[int, typer.Option(min=2, help="Segments per batch.")] = 32,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size D of the 2020 encoder.")] = 2048,
    frames: Annotated[int, typer.Option(min=8, help="Log-mel frames per segment.")] = 96,
    rounds: Rounds = 5,
    device: Device = "auto",
    precision: PrecisionOption = None,
    full: Full = False,
    out: Out = None,
) -> None:
    """Measure the encoders at a reduced batch size, in three tables.

    \b
    1  the 2020 encoder, forward and backward: written from the equations (`plain`), ours, and ours
       with one part replaced by torch's; peak is memory beyond the weights
    2  the same, forward only with running statistics, as for embeddings
    3  the 2022 encoder, forward and backward, D = 3072

    All results are first compared with those of `plain`, or of ours with parts replaced.

    \b
    Examples:
      python -m benchmarks.encoder
      python -m benchmarks.encoder --full --device cuda --out encoder.json
    """
    place = open_device(device)
    precision = precision or usual_precision(place)
    batch, dim = (256, 2048) if full else (batch, dim)
    report = Report(batch=batch, D=dim, frames=frames, precision=precision)
    x = torch.randn(batch, 1, BANDS, frames, generator=torch.Generator().manual_seed(0)).to(place)

    encoder = build_encoder("audio_ntt_2020", dim=dim, n_mels=BANDS).to(place)
    plain = PlainEncoder(dim, BANDS).to(place)
    plain.load_state_dict(encoder.state_dict())
    encoders = {"plain": plain, **variants(encoder)}
    check(encoders, x)
    for title, work in (("1 2020, forward and backward", train), ("2 2020, forward", embed)):
        contenders = {
            name: timed(partial(work, each, x, precision), place) for name, each in encoders.items()
        }
        report.add(title, compare(contenders, unit="segments", rounds=rounds, peaks_on=place))
    encoders = variants(build_encoder("audio_ntt_2022", dim=3072, n_mels=BANDS).to(place))
    check(encoders, x)
    contenders = {
        name: timed(partial(train, each, x, precision), place) for name, each in encoders.items()
    }
    rows = compare(contenders, unit="segments", rounds=rounds, peaks_on=place)
    report.add("3 2022, forward and backward", rows)
    report.save(out)


def variants(encoder: nn.Module) -> dict[str, nn.Module]:
    """Return our encoder, and copies with one part replaced by torch's."""
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_back: dict[str, Callable[[nn.Module], None]] = {
        "torch's modules": _use_torch_modules,
        "first block unfused": unfuse_first,
        "torch's linear layers": use_torch_linear,
    }
    encoders = {name: copy.deepcopy(encoder) for name in set_back}
    for name, each in encoders.items():
        set_back[name](each)
    return {"torch's modules": encoders.pop("torch's modules"), "ours": encoder, **encoders}


def _use_torch_modules(encoder: nn.Module) -> None:
    unfuse(encoder)
    use_torch_linear(encoder)


def check(encoders: dict[str, nn.Module], x: Tensor) -> None:
    """Raise if the encoders do not give equal results."""
    with torch.no_grad(), float32_products():
        first, *others = [each.eval()(x[:4]) for each in encoders.values()]
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-3, atol=1e-4)


def train(encoder: nn.Module, x: Tensor, precision: Precision) -> float:
    """Run forward and backward with batch statistics."""
    encoder.train().zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        y = encoder(x)
    y.float().square().mean().backward()
    return len(x)


def embed(encoder: nn.Module, x: Tensor, precision: Precision) -> float:
    """Run forward with running statistics."""
    encoder.eval()
    with (
        torch.inference_mode(),
        torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        encoder(x)
    return len(x)


if __name__ == "__main__":
    app()
