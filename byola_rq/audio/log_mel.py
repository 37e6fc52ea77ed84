"""Fast log-mel spectrogram: Triton kernels on a GPU, pieces that fit the cache on a CPU."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.runtime.triton import Kernels

KERNELS = Kernels("of the log-mel spectrogram")

# Frames per piece: 768 of 1024 samples take 3 MB each as frames and as spectrum. On one busy core
# 384, 768 and 1536 took 76, 71 and 81 ms for 256 segments (November 2026). A GPU without the
# Triton kernels is faster with fewer, larger pieces.
_CPU_FRAMES, _GPU_FRAMES = 768, 1 << 16

# Neighboring bands use few of the bins; on one core, 256 segments: 1 group 55 ms, 4 groups 46,
# 16 groups 52 (November 2026).
_NUM_GROUPS = 4


class BandGroup(NamedTuple):
    """Neighboring mel bands, `first:end`, and the frequency bins they use, `low:high`."""

    first: int
    end: int
    low: int
    high: int


def group_bands(filters: Tensor) -> tuple[BandGroup, ...]:
    """Split filters `(F, n_fft / 2 + 1)` into groups of bands, each with the bins it uses."""
    groups, first = [], 0
    for rows in filters.chunk(_NUM_GROUPS):
        used = rows.any(dim=0).nonzero().flatten().tolist() or [0]
        groups.append(BandGroup(first, first + len(rows), used[0], used[-1] + 1))
        first += len(rows)
    return tuple(groups)


@torch.no_grad()
def log_mel_in_pieces(
    waveform: Tensor,
    *,
    window: Tensor,
    filters: Tensor,
    groups: Sequence[BandGroup],
    hop_length: int,
    epsilon: float,
) -> Tensor:
    """Log-mel spectrogram `log(mel + epsilon)`, without gradient.

    Frames, spectrum and power reuse the same few megabytes, so memory traffic is little more than
    reading the waveform and writing the result. A clip's result does not depend on the others.

    Args:
        waveform: Waveforms, float32 `(B, S)`, S more than half of n_fft.
        window: Window, float32 `(n_fft,)`.
        filters: Mel filters, float32 `(F, n_fft / 2 + 1)`.
        groups: Result of `group_bands(filters)`.
        hop_length: Samples from frame to frame.
        epsilon: Added before the logarithm.

    Returns:
        float32 `(B, F, T)`, T = 1 + S // hop_length for an even n_fft.
    """
    if KERNELS.serve(waveform.device) and waveform.numel() > 0:
        arguments = waveform.contiguous(), window, filters
        found = KERNELS.run(waveform.device, lambda: _by_kernels(*arguments, hop_length, epsilon))
        if found is not None:
            return found
    n_fft, num_bins = len(window), filters.shape[1]
    num_clips, margin = len(waveform), n_fft // 2
    num_frames = 1 + (waveform.shape[1] + 2 * margin - n_fft) // hop_length
    log_mel = waveform.new_empty(num_clips, len(filters), num_frames)
    most = _CPU_FRAMES if waveform.device.type == "cpu" else _GPU_FRAMES
    clips_at_once = max(min(most // num_frames, num_clips), 1)
    frames_at_once = min(most, num_frames)
    shape = (clips_at_once, frames_at_once)
    windowed = waveform.new_empty(*shape, n_fft)
    spectrum = waveform.new_empty(*shape, num_bins, dtype=torch.complex64)
    power = waveform.new_empty(*shape, num_bins)
    for clip in range(0, num_clips, clips_at_once):
        rows = waveform[clip : clip + clips_at_once]
        padded = F.pad(rows, (margin, margin), mode="reflect")
        frames = padded.unfold(-1, n_fft, hop_length)  # (B, T, n_fft), a view
        for frame in range(0, num_frames, frames_at_once):
            piece = frames[:, frame : frame + frames_at_once]
            place = (slice(len(rows)), slice(piece.shape[1]))
            torch.mul(piece, window, out=windowed[place])
            torch.fft.rfft(windowed[place], out=spectrum[place])
            # Squared in place, then added: every pass but the last reads memory contiguously.
            squares = torch.view_as_real(spectrum[place]).square_()
            torch.add(squares[..., 0], squares[..., 1], out=power[place])
            out = log_mel[clip : clip + len(rows), :, frame : frame + piece.shape[1]]
            _mel(power[place], filters, groups, out)
            out.add_(epsilon).log_()
    return log_mel


def _by_kernels(
    waveform: Tensor, window: Tensor, filters: Tensor, hop_length: int, epsilon: float
) -> Tensor:
    # Triton is imported only where a kernel is launched, never on a CPU.
    from byola_rq.audio.log_mel_kernel import log_mel

    return log_mel(waveform, window, filters, hop_length=hop_length, epsilon=epsilon)


def _mel(power: Tensor, filters: Tensor, groups: Sequence[BandGroup], out: Tensor) -> None:
    """Apply filters to `power (B, T, bins)` and write the result to `out (B, F, T)`."""
    for first, end, low, high in groups:
        weights = filters[first:end, low:high].expand(len(power), -1, -1)
        # One product per clip, so that its rounding is the same in every batch.
        torch.bmm(weights, power[:, :, low:high].transpose(1, 2), out=out[:, first:end])
