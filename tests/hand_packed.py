"""A packed corpus written from the format's description alone, without the package."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KINDS = {
    "clip_id": pa.string(),
    "source": pa.string(),
    "shard": pa.int32(),
    "offset": pa.int64(),
    "num_samples": pa.int64(),
    "original_rate": pa.int32(),
    "labels": pa.string(),
}


def pack(folder: Path, clips: list[np.ndarray], clips_per_shard: int) -> Path:
    """Write int16 clips to a new folder."""
    folder.mkdir()
    shards = [clips[at : at + clips_per_shard] for at in range(0, len(clips), clips_per_shard)]
    rows = []
    for number, shard in enumerate(shards):
        np.save(folder / f"pcm-{number:05d}.npy", np.concatenate(shard).astype("<i2"))
        offset = 0
        for clip in shard:
            rows.append((f"clip {len(rows)}", "source", number, offset, len(clip), 44100, ""))
            offset += len(clip)
    columns = [
        pa.array(column, kind)
        for column, kind in zip(zip(*rows, strict=True), KINDS.values(), strict=True)
    ]
    pq.write_table(pa.table(columns, list(KINDS)), folder / "index.parquet")
    (folder / "rejected.csv").write_text("source,reason\n")
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    }
    info = {
        "format": "byola_rq packed corpus",
        "format_version": 1,
        "sample_rate": 16000,
        "clips": len(clips),
        "hours": sum(map(len, clips)) / 16000 / 3600,
        "rejected": 0,
        "duplicates": 0,
        "shards": len(shards),
        "files": files,
        "options": {},
    }
    (folder / "corpus.json").write_text(json.dumps(info))
    return folder
