"""Embeddings and labels as a PyTorch dataset: embedded once, then read from memory."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import byola_rq


class EmbeddingDataset(Dataset[tuple[Tensor, Tensor]]):
    """Items (embedding `(D,)`, label) of audio files."""

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], model: str = "builtin"
    ) -> None:
        # A copy, since autograd takes no tensor that was made in inference mode.
        self.embeddings = byola_rq.load(model).embed_files(paths).clone()
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.embeddings[index], self.labels[index]
