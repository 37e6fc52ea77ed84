"""Similarity of sounds to an encoder: cosines between their embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.embed.embedder import Embedder


@dataclass(frozen=True)
class Similarity:
    """Cosines between embeddings of one encoder.

    `views`: between the two views. `to_original`: between each sound and the original. `to_others`:
    between the first view and a view of each other sound.
    """

    encoder: str
    views: float
    to_original: Mapping[str, float]
    to_others: Mapping[str, float]


def measure_similarity(
    model: Embedder,
    name: str,
    *,
    views: tuple[Tensor, Tensor],
    original: Tensor,
    sounds: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
) -> Similarity:
    """Embed spectrograms, `(F, T)` each, in nat, and compare the embeddings.

    Args:
        model: Trained or untrained model.
        name: Name of the model.
        views: Two views of a segment.
        original: Original segment.
        sounds: Sounds made from the segment, by name.
        others: Views of other segments, by name.
    """
    log_mels = torch.stack((*views, original, *sounds.values(), *others.values()))
    device = next(model.encoder.parameters()).device
    with torch.inference_mode():
        embeddings = model.encoder(model.statistics.standardize(log_mels.to(device))[:, None])
    cosine = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
    first_sound, first_other = 3, 3 + len(sounds)
    return Similarity(
        encoder=name,
        views=float(cosine[0, 1]),
        to_original=dict(zip(sounds, cosine[2, first_sound:first_other].tolist(), strict=True)),
        to_others=dict(zip(others, cosine[0, first_other:].tolist(), strict=True)),
    )


def untrained_twin(model: Embedder) -> Embedder:
    """Return an untrained encoder of the same kind, with the model's frontend and statistics."""
    twin = Embedder.untrained(model.encoder_name, model.embedding_dim, frontend=model.frontend)
    device = next(model.encoder.parameters()).device
    return twin.with_statistics(model.statistics).to(device)
