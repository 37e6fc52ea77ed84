"""Miniature of NSynth: notes of eleven instrument families; training instruments are not tested."""

import json
from functools import partial
from typing import Any

import numpy as np

from byola_rq.synthesis.instruments import FAMILIES, Instrument, draw_instrument, play_note
from byola_rq.synthesis.primitives import SAMPLE_RATE, Waveform, make_generator, make_seed
from evaluate.miniature.plans import SetFile, SetPlan, scale

_SOURCES = ("acoustic", "electronic", "synthetic")
_QUALITIES = (
    "bright", "dark", "distortion", "fast_decay", "long_release", "multiphonic", "nonlinear_env",
    "percussive", "reverb", "tempo-synced",
)  # fmt: skip
_VELOCITIES = (25, 50, 75, 100, 127)
_NUM_TRAINED, _NUM_HELD_OUT = 6, 3  # instruments per family
_TRAINED_PARTS = ("train", "train")  # parts of the notes of an instrument
_HELD_OUT_PARTS = ("valid", "test", "test")  # an instrument is in both, as in the real set
_SECONDS = 0.5  # 4 s in the real set


def plan_nsynth(seed: int, size: float) -> SetPlan:
    """Plan `nsynth/nsynth-{train,valid,test}`, each `examples.json` and `audio/<note_str>.wav`."""
    examples: dict[str, dict[str, Any]] = {"train": {}, "valid": {}, "test": {}}
    sounds: list[SetFile] = []
    num_instruments = 0
    for family in FAMILIES:
        num_trained = scale(_NUM_TRAINED, size, at_least=2)
        # In the real set synth leads are only in the training part.
        num_held_out = 0 if family == "synth_lead" else scale(_NUM_HELD_OUT, size)
        for member in range(num_trained + num_held_out):
            rng = make_generator("miniature", "nsynth", seed, family, member)
            instrument = draw_instrument(family, int(rng.integers(2**31)))
            source = 2 if family == "synth_lead" else int(rng.integers(len(_SOURCES)))
            parts = _TRAINED_PARTS if member < num_trained else _HELD_OUT_PARTS
            for part, pitch in zip(parts, rng.permutation(instrument.pitches), strict=False):
                velocity = int(rng.choice(_VELOCITIES))
                note = _describe(instrument, source, member, int(pitch), velocity)
                note |= {"note": len(sounds), "instrument": num_instruments}
                examples[part][note["note_str"]] = note
                name = f"nsynth-{part}/audio/{note['note_str']}.wav"
                sounds.append(SetFile(name, partial(_play, instrument, int(pitch), velocity, seed)))
            num_instruments += 1
    texts = {
        f"nsynth-{part}/examples.json": json.dumps(notes, indent=2, sort_keys=True) + "\n"
        for part, notes in examples.items()
    }
    return SetPlan("nsynth", tuple(sounds), texts)


def _play(instrument: Instrument, pitch: int, velocity: int, seed: int) -> Waveform:
    moment = make_seed("miniature", "nsynth", seed, instrument.seed, pitch, velocity)
    return play_note(instrument, pitch=pitch, velocity=velocity, seconds=_SECONDS, seed=moment)


def _describe(
    instrument: Instrument, source: int, member: int, pitch: int, velocity: int
) -> dict[str, Any]:
    """Return the note's entry of `examples.json`, without its running numbers."""
    name = f"{instrument.family}_{_SOURCES[source]}_{member:03d}"
    values = instrument.values
    qualities = {
        "bright": values["tilt"] < 0.9,
        "dark": values["tilt"] > 1.8,
        "fast_decay": values["decay"] > 3,
        "percussive": values["decay"] > 0 and values["attack"] < 0.005,
    }
    has_quality = [bool(qualities.get(quality)) for quality in _QUALITIES]
    return {
        "note_str": f"{name}-{pitch:03d}-{velocity:03d}",
        "instrument_str": name,
        "pitch": pitch,
        "velocity": velocity,
        "sample_rate": SAMPLE_RATE,
        "qualities": [int(has) for has in has_quality],
        "qualities_str": np.array(_QUALITIES)[has_quality].tolist(),
        "instrument_family": list(FAMILIES).index(instrument.family),
        "instrument_family_str": instrument.family,
        "instrument_source": source,
        "instrument_source_str": _SOURCES[source],
    }
