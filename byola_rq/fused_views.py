"""Random resized crop and randomized quantization of both views in one kernel on the GPU."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from byola_rq.crop import RandomResizedCrop
from byola_rq.quantize import RandomizedQuantization
from byola_rq.randomness import word_bits

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
        device_types: Types of device on which the kernel is used; Triton's interpreter, which is
            for tests, would also take `cpu`.
    """

    def __init__(self, crop: RandomResizedCrop, quantization: RandomizedQuantization) -> None:
        self.crop = crop
        self.quantization = quantization
        self._words = tuple(word_bits(word) for word in _WORDS)
        self.device_types = {"cuda"}
        self._has_failed = False

    def __call__(self, log_mel: Tensor, key: Tensor) -> Tensor | None:
        """Make both views of every segment.

        Args:
            log_mel: Log-mel spectrograms, `(B, 1, F, T)`, of any strides.
            key: One key per segment, int64 `(B,)`.

        Returns:
            `(2, B, 1, F, T)`; None where this input or device is the plain path's. A kernel that
            cannot be had or fails says so in a line on stderr, once, and is not tried again.
        """
        if self._has_failed or not self._takes(log_mel):
            return None
        views = torch.empty(2, *log_mel.shape, dtype=log_mel.dtype, device=log_mel.device)
        try:
            # Triton launches on the current device, whatever the tensors' is.
            with torch.cuda.device_of(log_mel):  # type: ignore[no-untyped-call]
                self._launch(_load_kernel(), log_mel, key, views)
        # Whatever a compiler or a driver raises, the plain path gives the same views.
        except Exception as error:
            self._has_failed = True
            _warn_once(f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": "))
            return None
        return views

    def _takes(self, log_mel: Tensor) -> bool:
        return (
            log_mel.device.type in self.device_types
            and log_mel.dtype == torch.float32
            and log_mel.ndim == 4
            and log_mel.shape[1] == 1
            and log_mel.numel() > 0
            and not (log_mel.requires_grad and torch.is_grad_enabled())
            and self.quantization.channel_dim == -2
            and self.quantization.num_bins <= _MOST_BINS
            and self._blocks(log_mel)[0] * self._blocks(log_mel)[1] <= _MOST_ELEMENTS
        )

    def _blocks(self, log_mel: Tensor) -> tuple[int, int]:
        """Bands and frames of a program's block, powers of two."""
        num_bands, num_frames = (_power_of_two(size) for size in log_mel.shape[-2:])
        # A range over all channels needs them all; else small blocks, for more programs at once.
        if self.quantization.per == "channel":
            num_bands = min(num_bands, max(1, 2048 // num_frames))
        return num_bands, num_frames

    def _launch(self, kernel: Any, log_mel: Tensor, key: Tensor, views: Tensor) -> None:
        crop, quantization = self.crop, self.quantization
        num_samples, _, num_bands, num_frames = log_mel.shape
        block_bands, block_frames = self._blocks(log_mel)
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
            num_bands=num_bands,
            num_frames=num_frames,
            words=self._words,
            canvas=(int(crop.canvas[0] * num_bands), int(crop.canvas[1] * num_frames)),
            freq_scale=(crop.freq_scale[0], crop.freq_scale[1] - crop.freq_scale[0]),
            time_scale=(crop.time_scale[0], crop.time_scale[1] - crop.time_scale[0]),
            num_bins=quantization.num_bins,
            is_uniform=quantization.bins == "uniform",
            is_midpoint=quantization.values == "midpoint",
            is_instance=quantization.per == "instance",
            p=quantization.p,
            block_bands=block_bands,
            block_frames=block_frames,
            block_bins=_power_of_two(max(quantization.num_bins, 2)),
            num_warps=4 if block_bands * block_frames <= 2048 else 8,
            # A product and a sum fused into one rounding would draw other boxes and edges.
            enable_fp_fusion=False,
        )


@functools.cache
def _load_kernel() -> Callable[..., Any]:
    # Triton is imported where a kernel is launched, never on a CPU.
    from byola_rq.views_kernel import crop_and_quantize

    return crop_and_quantize  # type: ignore[no-any-return]


@functools.cache
def _warn_once(reason: str) -> None:
    print(
        f"warning: the kernel that makes both views cannot be used ({reason}); "
        "the slower plain path gives the same",
        file=sys.stderr,
        flush=True,
    )


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
