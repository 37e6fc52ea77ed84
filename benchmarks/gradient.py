"""Deviation of the gradient in bfloat16 for one step of the paper's recipe.

Run from the checkout: python -m benchmarks.gradient --help
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from benchmarks.distortion import read_log_mels
from benchmarks.harness import new_app
from byola_rq.audio.frontend import measure_statistics
from byola_rq.augment.views import Views
from byola_rq.model.byol import BYOL
from byola_rq.model.encoder import build_encoder
from byola_rq.runtime.rng import sample_keys

app = new_app()


@app.command()
def main(
    sources: Annotated[list[Path], typer.Argument(help="Folders, manifests or audio files.")],
    clips: Annotated[int, typer.Option(min=2, help="Batch size: one segment per clip.")] = 256,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Seed of clips, weights and views.")] = 0,
) -> None:
    """Compute one gradient in float32 and in bfloat16's autocast, from equal weights and views.

    \b
    Example:
      python -m benchmarks.gradient /data/my_sounds
    """
    log_mels = read_log_mels(sources, clips, seed)
    x = measure_statistics([log_mels]).standardize(log_mels)[:, None]
    views = Views({"random_resized_crop": {}, "randomized_quantization": {}}, post_norm=True)
    pair = views(x, sample_keys(seed, 0, torch.arange(len(x))))
    plain, half = (gradient(pair, dim, seed, is_bfloat16=half) for half in (False, True))
    for part, own in plain.items():
        off = torch.linalg.vector_norm(half[part] - own) / torch.linalg.vector_norm(own)
        print(f"{part}: the gradient is off by {off:.0%} of its length in float32")


def gradient(
    pair: tuple[Tensor, Tensor], dim: int, seed: int, *, is_bfloat16: bool
) -> dict[str, Tensor]:
    """Return the gradient of encoder, projector and predictor, each as one vector."""
    torch.manual_seed(seed)  # for weights and dropout
    encoder = build_encoder("audio_ntt_2020", dim=dim, n_mels=pair[0].shape[-2])
    byol = BYOL(encoder, projection_dim=256, hidden_dim=4096)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
        loss, _ = byol(*pair)
    loss.backward()
    parts = {"encoder": byol.encoder, "projector": byol.projector, "predictor": byol.predictor}
    return {name: _joined(part) for name, part in parts.items()}


def _joined(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


if __name__ == "__main__":
    app()
