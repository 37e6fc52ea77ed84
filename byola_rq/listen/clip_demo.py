"""Sounds of a segment, and their export to files."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.errors import ConfigError
from byola_rq.listen.augmented import Sound
from byola_rq.listen.segments import Segment
from byola_rq.listen.similarity import Similarity
from byola_rq.runtime.files import replace_file
from byola_rq.text.cells import csv_text

PEAK = 0.89  # of full scale, -1 dB: the loudest sample of all sounds
MAX_GAIN = 100.0  # 40 dB: more would only amplify rounding errors of silence


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Sounds of a segment; see `listen_to_clip`.

    `mixed_in` is the sound that mixup adds, `band` the band whose quantizers are shown.
    `similarities`: the model's, then its untrained twin's; empty without a model. They compare with
    the files `beside` the clip and with synthesized sounds.
    """

    segment: Segment
    frontend: LogMelSpectrogram
    statistics: Statistics
    seed: int
    chain: tuple[str, ...]
    band: int
    original: Sound
    inversion: Sound
    crop: Sound
    quantized: tuple[Sound, ...]
    mixed_in: Sound
    mixup: Sound
    views: tuple[Sound, Sound]
    similarities: tuple[Similarity, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """Sounds in the order of the page."""
        singles = (self.original, self.inversion, self.crop, *self.quantized)
        return (*singles, self.mixed_in, self.mixup, *self.views)

    @property
    def gain(self) -> float:
        """Common gain of all sounds, which keeps their relative loudness."""
        return common_gain(sound.waveform for sound in self.sounds)


def common_gain(waveforms: Iterable[Tensor]) -> float:
    """Return one gain for all waveforms: the loudest sample is brought to -1 dB."""
    peak = max(float(waveform.abs().max()) for waveform in waveforms)
    return min(PEAK / peak, MAX_GAIN) if peak > 0 else 1.0


def write_sounds(listening: Listening, folder: Path) -> list[Path]:
    """Write every sound as 16-bit wav with the page's gain, and a table of them to sounds.csv.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    import soundfile

    rows: list[tuple[str, ...]] = [("file", "title", "key", "distance_nat", "gain")]
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, sound in enumerate(listening.sounds, start=1):
            path = folder / f"{number:02d}-{sound.name}.wav"
            samples = (sound.waveform * listening.gain).numpy()
            wav = io.BytesIO()
            soundfile.write(
                wav, samples, listening.frontend.sample_rate, format="WAV", subtype="PCM_16"
            )
            replace_file(path, wav.getvalue())
            keys = " ".join(f"{step.name}={step.key}" for step in sound.steps)
            distance = "" if sound.distance is None else f"{sound.distance:.4f}"
            rows.append((path.name, sound.title, keys, distance, f"{listening.gain:.6g}"))
            paths.append(path)
        replace_file(folder / "sounds.csv", csv_text(rows))
    except (OSError, soundfile.SoundFileError) as error:
        message = f"{folder}: the sounds cannot be written ({error})"
        raise ConfigError(message, code="unwritable", path=folder) from error
    return paths
