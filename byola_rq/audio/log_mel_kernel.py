"""Triton kernels of the log-mel spectrogram: the work before and after the FFT, one pass each."""

# Importing this file needs Triton; its decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="import-untyped, import-not-found"

import torch
import triton
import triton.language as tl
from torch import Tensor

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
FRAMES, BINS = 32, 32  # of a tile of the product with the filters
MAX_FRAMES = 1 << 16  # per pass: 0.5 GB as frames and as spectrum (n_fft 1024)


def log_mel(
    waveform: Tensor, window: Tensor, filters: Tensor, *, hop_length: int, epsilon: float
) -> Tensor:
    """Compute `byola_rq.audio.log_mel.log_mel_in_pieces`; the arguments must be contiguous."""
    num_clips, num_samples = waveform.shape
    num_bands, n_fft = len(filters), len(window)
    num_frames = 1 + (num_samples + n_fft // 2 * 2 - n_fft) // hop_length
    result = waveform.new_empty(num_clips, num_bands, num_frames)
    total = num_clips * num_frames
    for first in range(0, total, MAX_FRAMES):
        count = min(MAX_FRAMES, total - first)
        frames = waveform.new_empty(count, n_fft)
        _windowed[(count,)](
            waveform, window, frames, first, num_samples, num_frames, hop_length, n_fft // 2,
            n_fft=n_fft, block=triton.next_power_of_2(n_fft), **OPTIONS,
        )  # fmt: skip
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        _log_of_bands[(triton.cdiv(count, FRAMES),)](
            spectrum, filters, result, first, count, num_frames, epsilon,
            num_bins=filters.shape[1], num_bands=num_bands,
            block_bands=max(triton.next_power_of_2(num_bands), 16),
            block_frames=FRAMES, block_bins=BINS, **OPTIONS,
        )  # fmt: skip
    return result


@triton.jit
def _windowed(
    waveform, window, frames, first, num_samples, num_frames, hop_length, margin,
    n_fft: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write one windowed frame, with the waveform reflected at both ends."""
    frame = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, block)
    is_inside = place < n_fft
    sample = (first + frame) % num_frames * hop_length + place - margin
    sample = tl.abs(sample)
    sample = tl.minimum(sample, 2 * (num_samples - 1) - sample)
    clip = (first + frame) // num_frames
    x = tl.load(waveform + clip * num_samples + sample, mask=is_inside, other=0.0)
    x *= tl.load(window + place, mask=is_inside, other=0.0)
    tl.store(frames + frame * n_fft + place, x, mask=is_inside)


@triton.jit
def _log_of_bands(
    spectrum, filters, result, first, count, num_frames, epsilon,
    num_bins: tl.constexpr, num_bands: tl.constexpr, block_bands: tl.constexpr,
    block_frames: tl.constexpr, block_bins: tl.constexpr,
):  # fmt: skip
    """Compute power, filters and logarithm for a tile of frames."""
    row = tl.program_id(0).to(tl.int64) * block_frames + tl.arange(0, block_frames)
    band = tl.arange(0, block_bands)
    is_row, is_band = row < count, band < num_bands
    mel = tl.zeros((block_frames, block_bands), tl.float32)
    for start in range(0, num_bins, block_bins):
        bins = start + tl.arange(0, block_bins)
        is_bin = bins < num_bins
        place = spectrum + (row[:, None] * num_bins + bins[None, :]) * 2
        mask = is_row[:, None] & is_bin[None, :]
        real = tl.load(place, mask=mask, other=0.0)
        imaginary = tl.load(place + 1, mask=mask, other=0.0)
        weights = tl.load(
            filters + band[None, :] * num_bins + bins[:, None],
            mask=is_bin[:, None] & is_band[None, :], other=0.0,
        )  # fmt: skip
        power = real * real + imaginary * imaginary
        # Three TF32 products on the matrix units round as little as one in float32 without them.
        mel = tl.dot(power, weights, mel, input_precision="tf32x3")
    clip, frame = (first + row) // num_frames, (first + row) % num_frames
    place = result + (clip[:, None] * num_bands + band[None, :]) * num_frames + frame[:, None]
    tl.store(place, tl.log(mel + epsilon), mask=is_row[:, None] & is_band[None, :])
