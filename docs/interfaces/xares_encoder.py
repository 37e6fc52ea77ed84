"""The built-in encoder, or the model that BYOLA_RQ_MODEL names, as an X-ARES encoder.

python -m xares.run xares_encoder.py src/tasks/*.py
BYOLA_RQ_MODEL=encoder.safetensors python -m xares.run xares_encoder.py src/tasks/*.py
"""

import os

import torch

import byola_rq


class ByolaRQEncoder(torch.nn.Module):
    """Frame embeddings, `(B, T)` -> `(B, T', D)`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = byola_rq.load(os.environ.get("BYOLA_RQ_MODEL", "builtin"))
        self.sampling_rate = self.model.sample_rate
        self.output_dim = self.model.embedding_dim
        seconds = self.model.frame_seconds(2)  # centers of the first two frames
        self.hop_size_in_ms = round(1000 * float(seconds[1] - seconds[0]))

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Embed sound of `sampling_rate`."""
        return self.model.frames(audio, self.sampling_rate)[0]
