"""Speed of packing by `byola-rq prepare`, by form of its source.

Run from the checkout: python -m benchmarks.prepare --help
"""

import io
import itertools
import resource
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.corpus_files import write_encoded, write_sounds
from benchmarks.harness import (
    Contender,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
)
from byola_rq.packing.plan import PackingOptions
from byola_rq.packing.prepare import prepare_corpus

app = new_app()


@app.command()
def main(
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the files; temporary by default.")
    ] = None,
    out: Out = None,
    rounds: Rounds = 1,
    clips: Annotated[int, typer.Option(min=16, help="Clips of 10 s in each source.")] = 600,
    workers: Annotated[int, typer.Option(min=1, help="Decoding processes.")] = 1,
) -> None:
    """Pack the same clips of 10 s from every form, and measure clips per second.

    Includes listing, starting the processes, decoding, resampling and writing. With one decoding
    process, the main process works beside it on less than half a core. The peak is that of the main
    process over everything so far, including the making of the sources.

    \b
    Examples:
      python -m benchmarks.prepare
      python -m benchmarks.prepare --clips 1000 --workers 8 --out prepare.json
    """
    report = Report("numpy", "soundfile", "soxr", "pyarrow")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        sources = write_sources(Path(place), clips)
        rows = measure_sources(sources, Path(place) / "packed", workers, rounds)
        report.add(f"packing, {workers} decoding process(es)", rows)
    report.save(out)


def write_sources(folder: Path, num_clips: int) -> dict[str, Path]:
    """Write folders of every codec, and a tar and a Parquet file of FLAC."""
    distinct = min(num_clips, 16)  # synthesizing and encoding take longer than packing
    sources = write_encoded(folder / "encoded", write_sounds(folder / "sounds", distinct))
    for source in sources.values():
        files = sorted(source.iterdir())
        for number, path in zip(range(distinct, num_clips), itertools.cycle(files), strict=False):
            shutil.copy(path, source / f"{number}{path.suffix}")
    flacs = sorted(sources["flac"].iterdir())
    with tarfile.open(folder / "flac.tar", "w") as tar:
        for path in flacs:
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    audio = [{"bytes": path.read_bytes(), "path": path.name} for path in flacs]
    pq.write_table(pa.table({"audio": audio}), folder / "flac.parquet", row_group_size=100)
    return {
        **sources,
        "flac in a tar": folder / "flac.tar",
        "flac in Parquet": folder / "flac.parquet",
    }


def measure_sources(
    sources: dict[str, Path], folder: Path, num_workers: int, rounds: int
) -> list[Row]:
    """Return a row for each source: clips per second, and memory of the main process."""
    peaks: dict[str, float] = {}

    def contender(name: str) -> Contender:
        def work() -> tuple[float, float]:
            started = time.perf_counter()
            outcome = prepare_corpus(
                [str(sources[name])], folder, PackingOptions(), num_workers=num_workers
            )
            seconds = time.perf_counter() - started
            assert outcome.rejected == 0
            shutil.rmtree(folder)
            peaks[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            return outcome.clips, seconds

        return work

    rows = compare({name: contender(name) for name in sources}, unit="clips", rounds=rounds)
    for row in rows:
        row["peak MiB"] = peaks[row["name"]]
    return rows


if __name__ == "__main__":
    app()
