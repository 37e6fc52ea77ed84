"""Random resized crop and randomized quantization of both views in one kernel on the GPU."""

from typing import Any

import torch
from torch import Tensor

from byola_rq.augment.crop import RandomResizedCrop
from byola_rq.augment.quantize import RandomizedQuantization
from byola_rq.runtime.rng import word_bits
from byola_rq.runtime.triton import Kernels

# Of which the keys derive: in `Views` those of both views and augmentations, then quantization's.
_WORDS = (1, 2, "random_resized_crop", "randomized_quantization", "edges", "values", "applied")
_MOST_BINS = 64
_MOST_ELEMENTS = 1 << 14  # of a block, in the registers of one program


class FusedViews:
    """Both views of a batch, cropped and quantized, as one kernel writes them.

    The random numbers are bit for bit those of the two augmentations one after the other, and the
    values theirs but for the rounding of the interpolation. What is between input and views stays
    in registers.

    Args:
        crop: The first augmentation of the chain.
        quantization: The second.

    Attributes:
        kernels: Where and whether the kernel is used.
    """

    def __init__(self, crop: RandomResizedCrop, quantization: RandomizedQuantization) -> None:
        self.crop = crop
        self.quantization = quantization
        self._words = tuple(word_bits(word) for word in _WORDS)
        self.kernels = Kernels("that make both views")

    def __call__(self, log_mel: Tensor, key: Tensor) -> Tensor | None:
        """Make both views of every segment.

        Args:
            log_mel: Log-mel spectrograms, `(B, 1, F, T)`, of any strides.
            key: One key per segment, int64 `(B,)`.

        Returns:
            `(2, B, 1, F, T)`; None where this input or device is the plain path's. What keeps a
            GPU from using the kernel is said in a line on stderr, once.
        """
        if not self.kernels.serve(log_mel.device) or log_mel.numel() == 0:
            return None
        if reason := self._refusal(log_mel):
            self.kernels.decline(reason)
            return None
        return self.kernels.run(log_mel.device, lambda: self._launch(log_mel, key))

    def _refusal(self, log_mel: Tensor) -> str | None:
        """Why the kernel does not take an input; None where it does."""
        if log_mel.dtype != torch.float32:
            return f"log-mels must be float32; got {str(log_mel.dtype).removeprefix('torch.')}"
        if log_mel.ndim != 4 or log_mel.shape[1] != 1:
            return f"log-mels must be (B, 1, F, T); got {tuple(log_mel.shape)}"
        if log_mel.requires_grad and torch.is_grad_enabled():
            return "a gradient is asked for"
        if self.quantization.channel_dim != -2 or self.quantization.num_bins > _MOST_BINS:
            return f"channel_dim must be -2, num_bins at most {_MOST_BINS}"
        num_bands, num_frames = log_mel.shape[2:]
        block_bands, block_frames = self._block(num_bands, num_frames)
        if block_bands * block_frames > _MOST_ELEMENTS:
            return f"log-mels of {num_bands} x {num_frames} are too large"
        return None

    def constants(self, num_bands: int, num_frames: int) -> dict[str, Any]:
        """What the kernel is compiled for."""
        crop, quantization = self.crop, self.quantization
        block_bands, block_frames = self._block(num_bands, num_frames)
        return {
            "num_bands": num_bands,
            "num_frames": num_frames,
            "words": self._words,
            "canvas": (int(crop.canvas[0] * num_bands), int(crop.canvas[1] * num_frames)),
            "freq_scale": (crop.freq_scale[0], crop.freq_scale[1] - crop.freq_scale[0]),
            "time_scale": (crop.time_scale[0], crop.time_scale[1] - crop.time_scale[0]),
            "num_bins": quantization.num_bins,
            "is_uniform": quantization.bins == "uniform",
            "is_midpoint": quantization.values == "midpoint",
            "is_instance": quantization.per == "instance",
            "p": quantization.p,
            "block_bands": block_bands,
            "block_frames": block_frames,
            "block_bins": _power_of_two(max(quantization.num_bins, 2)),
        }

    def options(self, num_bands: int, num_frames: int) -> dict[str, Any]:
        """How it is compiled."""
        block_bands, block_frames = self._block(num_bands, num_frames)
        return {
            "num_warps": max(4, min(block_bands * block_frames // 512, 32)),
            # A product and a sum fused into one rounding would draw other boxes and edges.
            "enable_fp_fusion": False,
        }

    def _block(self, num_bands: int, num_frames: int) -> tuple[int, int]:
        """Bands and frames of a program's block, powers of two."""
        bands, frames = _power_of_two(num_bands), _power_of_two(num_frames)
        # A range over all channels needs them all; else small blocks, for more programs at once.
        if self.quantization.per == "channel":
            bands = min(bands, max(1, 2048 // frames))
        return bands, frames

    def _launch(self, log_mel: Tensor, key: Tensor) -> Tensor:
        # Triton is imported where a kernel is launched, never on a CPU.
        from byola_rq.augment.views_kernel import crop_and_quantize

        kernel: Any = crop_and_quantize
        num_samples, _, num_bands, num_frames = log_mel.shape
        views = log_mel.new_empty(2, *log_mel.shape)
        block_bands, _ = self._block(num_bands, num_frames)
        grid = (num_samples, 2, -(-num_bands // block_bands))
        kernel[grid](
            log_mel,
            key,
            views,
            log_mel.stride(0),
            key.stride(0),
            log_mel.stride(2),
            log_mel.stride(3),
            num_samples,
            **self.constants(num_bands, num_frames),
            **self.options(num_bands, num_frames),
        )
        return views


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
