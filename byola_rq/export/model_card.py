"""The model card: what a model file says of itself, in words; nothing else."""

import json
from string import Template
from typing import Any

from byola_rq.embed.embedder import Embedder
from byola_rq.text.cells import markdown_cell

# docs/model_card.md is this text; a test compares them.
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

A frozen encoder of general audio: sound of any length in, one embedding of $dim numbers out, or
one for every $frame_ms ms. Written by byola_rq from what its model file says of itself.

```python
from byola_rq.hub import HubEmbedder

model = HubEmbedder.from_pretrained("$source")
embedding = model(waveform, sample_rate)  # (1, $dim)
frames, seconds = model.frames(waveform, sample_rate)  # (1, T', $dim), centres in seconds
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
| licence of the weights | $licence |

## Training

$training

## Evaluation

The model file stores no scores, so none are claimed here. `python -m evaluate` in the source
checkout measures them with linear probes, beside an untrained encoder and plain log-mel
statistics.

## Limits

The embeddings reflect the sounds that the encoder was trained on. What they lack, this card cannot
say; test them on your own kind of sound before you rely on them.
"""

# Of the licences that the hub knows by name, those that weights usually have; others are `other`.
_HUB_LICENCES = frozenset(
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
    """Write a model card, Markdown with the hub's metadata before it.

    Args:
        embedder: What it is about.
        repo_id: Id on the hub, `owner/name`; a placeholder where there is none yet.
    """
    description = embedder.description
    frontend = ", ".join(
        f"{name} {value}" for name, value in description["frontend"].items() if name != "backend"
    )
    stride = embedder.encoder.frames_per_embedding * embedder.frontend.hop_length
    return Template(TEMPLATE).substitute(
        license_lines=_license_lines(embedder.licence),
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
        licence=markdown_cell(embedder.licence) if embedder.licence else "not stated",
        training=_training(embedder.summary),
    )


def _license_lines(licence: str | None) -> str:
    """The hub's metadata of a licence; no line where nobody has stated one."""
    if not licence:
        return ""
    if licence.lower() in _HUB_LICENCES:
        return f"license: {licence.lower()}\n"
    return f"license: other\nlicense_name: {json.dumps(licence)}\n"


def _training(summary: dict[str, Any]) -> str:
    """The training summary as a table."""
    if not summary:
        return "The model file says nothing of its training."
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in summary.items()]
    return "\n".join(("| | |", "|---|---|", *rows))


def _cell(value: Any) -> str:
    """Any value of the summary."""
    return markdown_cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
