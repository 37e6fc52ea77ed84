"""Model cards, written only from what a model file states."""

import json
from string import Template
from typing import Any

from byola_rq.embed.embedder import Embedder
from byola_rq.text.cells import markdown_cell

# A test compares docs/model_card.md with this text.
TEMPLATE = """\
---
library_name: byola_rq
pipeline_tag: feature-extraction
${license_lines}tags:
- audio
- audio-embeddings
- self-supervised-learning
---

# $title

A frozen encoder of general audio: it turns sound of any length into one embedding of $dim numbers,
or one for every $frame_ms ms. byola_rq wrote this card from the model file.

```python
from byola_rq.hub import HubEmbedder

model = HubEmbedder.from_pretrained("$source")
embedding = model(waveform, sample_rate)  # (1, $dim)
frames, seconds = model.frames(waveform, sample_rate)  # (1, T', $dim), centers in seconds
```

## The model

| | |
|---|---|
| encoder | `$encoder`, $parameters parameters |
| embedding | $dim numbers: maximum plus mean over time |
| frame embeddings | one every $frame_ms ms |
| sound | mono, $sample_rate Hz (other rates are resampled), at least $min_seconds s |
| frontend | $frontend |
| standardization | log-mel mean $mean, standard deviation $std |
| SHA-256 of the weights | `$weights_sha256` |
| license of the weights | $license |

## Training

$training

## Evaluation

The model file stores no scores, so none are claimed here. `python -m evaluate` in the source
checkout measures them with linear probes, beside an untrained encoder and plain log-mel
statistics.

## Limits

The embeddings reflect the sounds that the encoder was trained on. Test them on your own kind of
sound before you rely on them.
"""

# Common licenses among those that the hub knows by name; others are `other`.
_HUB_LICENSES = frozenset(
    {
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "mit",
    }
)


def write_model_card(embedder: Embedder, repo_id: str | None = None) -> str:
    """Write a model card in Markdown, with the hub's metadata at its head.

    Args:
        embedder: Embedder that the card describes.
        repo_id: Id on the hub, `owner/name`; None writes a placeholder.
    """
    description = embedder.description
    frontend = ", ".join(
        f"{name} {value}" for name, value in description["frontend"].items() if name != "backend"
    )
    stride = embedder.encoder.frames_per_embedding * embedder.frontend.hop_length
    return Template(TEMPLATE).substitute(
        license_lines=_license_lines(embedder.license),
        title=(repo_id or f"{embedder.encoder_name}, {embedder.embedding_dim}").split("/")[-1],
        source=repo_id or "path/to/this/folder",
        encoder=embedder.encoder_name,
        dim=embedder.embedding_dim,
        parameters=f"{sum(each.numel() for each in embedder.encoder.parameters()):,}",
        frame_ms=f"{1000 * stride / embedder.sample_rate:g}",
        sample_rate=embedder.sample_rate,
        min_seconds=f"{embedder.clips.min_samples / embedder.sample_rate:g}",
        frontend=markdown_cell(frontend),
        mean=f"{embedder.statistics.mean:.6g}",
        std=f"{embedder.statistics.std:.6g}",
        weights_sha256=description["weights_sha256"],
        license=markdown_cell(embedder.license) if embedder.license else "not stated",
        training=_training(embedder.summary),
    )


def _license_lines(name: str | None) -> str:
    """Format the hub's metadata of a license; empty if none is stated."""
    if not name:
        return ""
    if name.lower() in _HUB_LICENSES:
        return f"license: {name.lower()}\n"
    return f"license: other\nlicense_name: {json.dumps(name)}\n"


def _training(summary: dict[str, Any]) -> str:
    """Format the training summary as a table."""
    if not summary:
        return "The model file has no information about its training."
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in summary.items()]
    return "\n".join(("| | |", "|---|---|", *rows))


def _cell(value: Any) -> str:
    """Format a value of the summary for a table."""
    return markdown_cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
