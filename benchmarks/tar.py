"""Time and memory of listing the members of a tar by their headers.

Run from the checkout: python -m benchmarks.tar --help
"""

import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from benchmarks.harness import Out, Report, Rounds, compare, new_app, timed
from byola_rq.sources.tar_headers import walk_members

app = new_app()


@app.command()
def main(
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the tar; temporary by default.")
    ] = None,
    out: Out = None,
    rounds: Rounds = 1,
    members: Annotated[int, typer.Option(min=10, help="Number of members.")] = 200_000,
    kilobytes: Annotated[
        int, typer.Option(min=1, help="Size of each in kB; a sparse file on disk.")
    ] = 1,
) -> None:
    """List name, offset and size of every member: `tarfile` within our limits, and alone.

    `r:` seeks over the data between headers, `r|` reads it. `tarfile` keeps an object for each
    member; `forgetting` clears its list after each one, as ours does. Ratios are to the first row.

    \b
    Examples:
      python -m benchmarks.tar
      python -m benchmarks.tar --members 2000000 --out tar.json
    """
    report = Report()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "a.tar"
        write_tar(path, members, 1000 * kilobytes)

        def within_limits() -> float:
            with path.open("rb") as file:
                return sum(1 for _ in walk_members(file, path.stat().st_size))

        contenders = {
            "byola_rq": timed(within_limits),
            "tarfile r:": timed(lambda: count(path, "r:", is_forgetting=False)),
            "tarfile r:, forgetting": timed(lambda: count(path, "r:", is_forgetting=True)),
            "tarfile r|, forgetting": timed(lambda: count(path, "r|", is_forgetting=True)),
        }
        rows = compare(contenders, unit="members", rounds=rounds, peaks_on=torch.device("cpu"))
    for row in rows:
        row["seconds"] = members / row["members/s"]
    report.add(f"headers of a tar of {members:,} members of {kilobytes} kB", rows)
    if out:
        report.save(out)


def write_tar(path: Path, num_members: int, num_bytes: int) -> None:
    """Write only the headers; the file system need not store the data in between."""
    with path.open("wb") as file:
        for number in range(num_members):
            member = tarfile.TarInfo(f"{number // 1000:04d}/{number:08d}.flac")
            member.size = num_bytes
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.seek(-(-num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, 1)
        file.truncate(file.tell() + 2 * tarfile.BLOCKSIZE)


def count(path: Path, mode: Literal["r:", "r|"], *, is_forgetting: bool) -> float:
    """Count the members that `tarfile` finds."""
    return sum(1 for _ in _members(path, mode, is_forgetting=is_forgetting))


def _members(
    path: Path, mode: Literal["r:", "r|"], *, is_forgetting: bool
) -> Iterator[tuple[str, int, int]]:
    with tarfile.open(path, mode) as tar:
        for member in tar:
            yield member.name, member.offset_data, member.size
            if is_forgetting:
                tar.members.clear()  # type: ignore[attr-defined]  # not part of the interface


if __name__ == "__main__":
    app()
