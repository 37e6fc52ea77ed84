"""Merging of shards into a corpus: index, list of rejected clips, corpus.json."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.corpus.packed_format import (
    FORMAT,
    FORMAT_VERSION,
    INDEX_SCHEMA,
    shard_name,
)
from byola_rq.errors import CorpusError
from byola_rq.packing.plan import PackingPlan
from byola_rq.packing.shards import (
    open_parts,
    read_rows,
    read_summary,
    remove_parts,
    size_and_digest,
)
from byola_rq.runtime.files import whole_file
from byola_rq.text.cells import csv_text
from byola_rq.text.shown import one_line

_ROWS_PER_GROUP = 2**17


def merge_shards(folder: Path, plan: PackingPlan) -> dict[str, Any]:
    """Write index.parquet, rejected.csv and corpus.json, then remove the temporary parts.

    Returns:
        Content of corpus.json.

    Raises:
        CorpusError: If shards are missing; names them.
        OSError: If a file cannot be written.
    """
    summaries = [read_summary(folder, shard) for shard in range(plan.num_shards)]
    if missing := [shard for shard, summary in enumerate(summaries) if summary is None]:
        message = (
            f"{folder}: all {plan.num_shards} shards must be packed before they are merged; "
            f"missing {_ranges(missing)}. Pack them again"
        )
        raise CorpusError(message, code="missing", path=folder, value=missing)
    files: dict[str, dict[str, Any]] = {}
    tables: list[pa.Table] = [INDEX_SCHEMA.empty_table()]
    rejected: list[tuple[str, str]] = []
    for shard, summary in enumerate(filter(None, summaries)):
        files[shard_name(shard)] = {"bytes": summary.bytes, "sha256": summary.sha256}
        rows = read_rows(folder, shard)
        try:
            tables.append(_index_rows(shard, rows["clips"]))
        except (ValueError, OverflowError, pa.ArrowException) as error:
            message = f"{folder}: the rows of shard {shard} fit no index ({one_line(error)})"
            raise CorpusError(message, code="malformed", path=folder, value=shard) from error
        rejected += rows["rejected"]
    index = pa.concat_tables(tables)
    rejected += plan.rejected
    with _new_file(folder, "index.parquet") as path:
        with path.open("wb") as file:  # pyarrow takes only names that are UTF-8
            pq.write_table(index, file, row_group_size=_ROWS_PER_GROUP, compression="zstd")
        files["index.parquet"] = size_and_digest(path)
    with _new_file(folder, "rejected.csv") as path:
        path.write_bytes(csv_text([("source", "reason"), *rejected]).encode())
        files["rejected.csv"] = size_and_digest(path)
    num_samples = int(index["num_samples"].to_numpy().sum())
    info = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sample_rate": SAMPLE_RATE,
        "clips": len(index),
        "hours": num_samples / SAMPLE_RATE / 3600,
        "rejected": len(rejected) - plan.num_duplicates,
        "duplicates": plan.num_duplicates,
        "shards": plan.num_shards,
        "files": files,
        "options": plan.recorded_options,
    }
    with _new_file(folder, "corpus.json") as path:
        path.write_bytes(f"{json.dumps(info, indent=1)}\n".encode())
    remove_parts(folder)
    return info


def _index_rows(shard: int, columns: dict[str, list[Any]]) -> pa.Table:
    """Build a shard's rows of the index; its clips are contiguous."""
    num_samples = np.array(columns["num_samples"], np.int64)
    values = {
        **columns,
        "shard": np.full(len(num_samples), shard, np.int32),
        "offset": np.cumsum(num_samples) - num_samples,
    }
    return pa.table([values[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)


def _new_file(folder: Path, name: str) -> AbstractContextManager[Path]:
    return whole_file(folder / name, folder=open_parts(folder))


def _ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers as ranges: `3, 7-9, 12`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
