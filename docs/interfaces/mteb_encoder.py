"""The built-in encoder, or another model, as an audio encoder of MTEB (version 2).

import mteb
model = ByolaRQEncoder()  # or ByolaRQEncoder("encoder.safetensors")
mteb.evaluate(model, mteb.get_tasks(tasks=["ESC50"]))
"""

from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

import byola_rq


class ByolaRQEncoder(AbsEncoder):
    """Clip embeddings, compared by their cosine."""

    def __init__(
        self,
        model_name: str = "builtin",
        revision: str | None = None,
        device: str = "cpu",
        **_: Any,
    ) -> None:
        self.embedder = byola_rq.load(model_name, device)
        overrides = {
            "name": f"byola_rq/{self.embedder.encoder_name}",
            "revision": revision or self.embedder.weights_sha256[:12],
            "embed_dim": self.embedder.embedding_dim,
            "modalities": ["audio"],
        }
        self.mteb_model_meta = ModelMeta.create_empty(overwrites=overrides)

    def encode(self, inputs: Any, **_: Any) -> torch.Tensor:
        """Embed batches whose `audio` is a list of {array, sampling_rate}: `(clips, D)`."""
        rows = []
        for batch in inputs:
            for clip in batch["audio"]:
                samples = np.asarray(clip["array"], np.float32)
                mono = samples if samples.ndim == 1 else samples.mean(axis=0)
                rows.append(self.embedder(mono, int(clip["sampling_rate"])).cpu())
        return torch.cat(rows)
