"""Sounds in all forms that the corpus benchmarks read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.corpus.packed_format import FORMAT, FORMAT_VERSION, INDEX_SCHEMA, shard_name
from byola_rq.synthesis.generate import write_corpus

CLIP = 10 * SAMPLE_RATE  # samples
# Suffix, format and subtype of libsndfile, sample rate.
CODECS = {
    "wav": ("wav", "WAV", "PCM_16", SAMPLE_RATE),
    "flac": ("flac", "FLAC", "PCM_16", SAMPLE_RATE),
    "ogg": ("ogg", "OGG", "VORBIS", SAMPLE_RATE),
    "mp3": ("mp3", "MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "wav 44.1 kHz": ("wav", "WAV", "PCM_16", 44_100),
    "mp3 44.1 kHz": ("mp3", "MP3", "MPEG_LAYER_III", 44_100),
}


def write_sounds(folder: Path, num_clips: int) -> list[npt.NDArray[np.int16]]:
    """Synthesize clips of 10 s."""
    paths = write_corpus(folder, num_clips=num_clips, seed=0, seconds=(10.0, 10.0))
    return [soundfile.read(path, dtype="int16")[0] for path in paths]


def write_encoded(folder: Path, sounds: list[npt.NDArray[np.int16]]) -> dict[str, Path]:
    """Write the sounds in every form, one folder each."""
    folders = {}
    for name, (suffix, container, subtype, rate) in CODECS.items():
        folders[name] = folder / name
        folders[name].mkdir(parents=True)
        for number, samples in enumerate(sounds):
            resampled = soxr.resample(samples / 32768, SAMPLE_RATE, rate)
            path = folders[name] / f"{number}.{suffix}"
            soundfile.write(path, resampled, rate, format=container, subtype=subtype)
    return folders


def write_packed(
    folder: Path, sounds: list[npt.NDArray[np.int16]], num_clips: int, clips_per_shard: int = 800
) -> Path:
    """Write a packed corpus of the sounds, repeated."""
    folder.mkdir()
    for shard in range(num_clips // clips_per_shard):
        numbers = range(shard * clips_per_shard, (shard + 1) * clips_per_shard)
        samples = np.concatenate([np.resize(sounds[n % len(sounds)], CLIP) for n in numbers])
        np.save(folder / shard_name(shard), samples)
    write_index(folder, num_clips, clips_per_shard)
    return folder


def write_index(folder: Path, num_clips: int, clips_per_shard: int) -> None:
    """Write index and corpus.json of existing shards."""
    number = np.arange(num_clips)
    columns = {
        "clip_id": [f"Y{each:011d}" for each in number],
        "source": [f"/data/audioset/train/Y{each:011d}.flac" for each in number],
        "shard": number // clips_per_shard,
        "offset": number % clips_per_shard * CLIP,
        "num_samples": np.full(num_clips, CLIP),
        "original_rate": np.full(num_clips, 44_100),
        "labels": ["/m/09x0r,/m/05zppz"] * num_clips,
    }
    table = pa.table(columns).cast(INDEX_SCHEMA)
    pq.write_table(table, folder / "index.parquet", compression="zstd")
    (folder / "rejected.csv").write_text("source,reason\n")
    shards = sorted(folder.glob("pcm-*.npy"))
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(b"").hexdigest()}
        for path in (*shards, folder / "index.parquet", folder / "rejected.csv")
    }
    info = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sample_rate": SAMPLE_RATE,
        "clips": num_clips,
        "hours": num_clips * CLIP / SAMPLE_RATE / 3600,
        "rejected": 0,
        "duplicates": 0,
        "shards": len(shards),
        "files": files,
        "options": {},
    }
    (folder / "corpus.json").write_text(json.dumps(info))
