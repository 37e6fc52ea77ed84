"""Texts of the listening page: facts of the segment, unusual properties, drawn parameters."""

from math import log10

from byola_rq.listen.augmented import Sound, Step
from byola_rq.listen.clip_demo import Listening

NAMES = {
    "mixup": "mixup",
    "random_resized_crop": "random resized crop",
    "randomized_quantization": "randomized quantization",
    "random_linear_fader": "random linear fader",
    "dacl": "DACL",
    "spec_augment": "SpecAugment",
    "imix": "i-Mix (mixes the network's inputs and targets: not in these pictures)",
    "ssql": "SSQL (quantizes the network: not in these pictures)",
}

_DECIBELS = 10 / 2.302585093  # of one nat of power


def describe_facts(listening: Listening) -> dict[str, str]:
    """Return facts of the segment and the page by name."""
    segment, statistics = listening.segment, listening.statistics
    end = segment.start_seconds + len(segment.waveform) / segment.sample_rate
    channels = {1: "mono", 2: "stereo"}.get(
        segment.num_channels, f"{segment.num_channels} channels"
    )
    num_bands, num_frames = listening.original.log_mel.shape
    whose = "of the model's corpus" if listening.similarities else "of the segment (no model)"
    return {
        "segment": f"{segment.start_seconds:.3f} to {end:.3f} s of {segment.clip_seconds:,.2f} s",
        "file": f"{segment.clip_rate:,} Hz, {channels}",
        "seen as": f"{num_bands} mel bands x {num_frames} frames, at {segment.sample_rate:,} Hz",
        "gain": f"{20 * log10(listening.gain):+.1f} dB on every player of this page",
        "seed": f"{listening.seed}, epoch 0, clip 0",
        "standardized": f"by mean {statistics.mean:.2f}, std {statistics.std:.2f} nat {whose}",
    }


def list_notes(listening: Listening) -> list[str]:
    """Return one sentence for each unusual property of the segment."""
    segment = listening.segment
    waveform, notes = segment.waveform, []
    if segment.sounding_seconds < len(waveform) / segment.sample_rate - 1e-3:
        notes.append(
            f"The clip fills only {segment.sounding_seconds:.3f} s of the segment; the rest is "
            "zeros at both ends, as in training."
        )
    if segment.num_channels > 1:
        notes.append(f"The {segment.num_channels} channels are averaged, as in training.")
    if not waveform.any():
        notes.append("The segment is silent: only the mixed-in sound is audible.")
    elif (share := float((waveform.abs() >= 0.999).float().mean())) > 1e-3:
        notes.append(f"The recording is clipped: {share:.1%} of its samples are at full scale.")
    num_frames = listening.original.log_mel.shape[1]
    many = [sound.title for sound in listening.quantized if count_bins(sound) > num_frames]
    if many:
        notes.append(
            f"{', '.join(many)}: more bins than the {num_frames} values of a band; most stay empty."
        )
    return notes


def describe_step(step: Step) -> str:
    """Describe the parameters that an augmentation drew."""
    name = NAMES[step.name]
    if not step.is_applied:
        return f"{name}: not applied in this draw"
    if step.crop is not None:
        crop, (bands, frames) = step.crop, step.crop.canvas.shape
        return (
            f"box of {crop.height} bands x {crop.width} frames, from band {crop.top} and frame "
            f"{crop.left} of a canvas of {bands} x {frames}"
        )
    if step.share is not None:
        return f"share of the other sound: {step.share:.3f}"
    if step.masks is not None:
        parts = [
            f"{axis} {', '.join(f'{begin} to {end - 1}' for begin, end in ranges)}"
            for axis, ranges in step.masks.items()
            if ranges
        ]
        return f"{name}: {' and '.join(parts)} masked" if parts else f"{name}: no mask"
    if step.ends is not None:
        return f"{name}: from {step.ends[0]:+.2f} to {step.ends[1]:+.2f} nat"
    return name if step.band is None else f"{name}, K = {len(step.band.values)}"


def describe_distance(listening: Listening, sound: Sound) -> str:
    """Describe the distance of a sound from the original: in nat and dB, and to the model."""
    parts = []
    if sound.distance is not None:
        decibels = sound.distance * _DECIBELS
        parts.append(f"moved by {sound.distance:.2f} nat ({decibels:.1f} dB)")
    for similarity in listening.similarities[:1]:
        if sound.name in similarity.to_original and sound.name != "original":
            parts.append(f"cosine {similarity.to_original[sound.name]:.3f}")
    return ", ".join(parts)


def count_bins(sound: Sound) -> int:
    """Number of bins `K` of a quantized sound."""
    return next(len(step.band.values) for step in sound.steps if step.band is not None)
