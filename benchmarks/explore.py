"""Search, duplicates, clusters and maps of many clips: time, memory, page size, frame rate.

Run from the checkout: python -m benchmarks.explore --help
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.harness import Out, Report, Row, new_app
from benchmarks.large_index import peak_megabytes
from byola_rq.embed.embedder import load
from byola_rq.explore.collection import Collection
from byola_rq.explore.map import choose_method, draw_map, excerpt_seconds, read_excerpts
from byola_rq.explore.page import write_map_page
from byola_rq.explore.search import find_clips, find_duplicates
from byola_rq.synthesis.generate import write_corpus

app = new_app()

NUM_SOUNDS = 60  # different sounds on a page; its clips repeat them
NUM_DRAWS = 30


@app.command()
def main(
    *,
    clips: Annotated[list[int], typer.Option(help="Collection sizes; repeatable.")] = [1000, 20000],  # noqa: B006
    points: Annotated[int, typer.Option(min=1, help="Clips on the page.")] = 5000,
    out: Out = None,
) -> None:
    """Time `byola-rq search` and `map` on synthesized embeddings, D = 512.

    If Chromium is installed, the page is opened and drawn there without a GPU, whole and zoomed
    in. Peak memory is that of the process so far.
    """
    report = Report()
    rows: list[Row] = []
    for size in sorted(clips):
        collection = synthesize(size)
        query = torch.from_numpy(collection.rows[0])
        for name, work in (
            ("search, 10 nearest", partial(find_clips, query, collection, 10)),
            ("duplicates", partial(find_duplicates, collection)),
            (f"map ({choose_method('auto', size)})", partial(draw_map, collection.rows)),
        ):
            rows.append({"clips": size, "what": name, **timed(work)})
    report.add("Synthesized embeddings, D = 512", rows)
    report.add(f"A page of {points} clips", [measure_page(points)])
    report.save(out)


def timed(work: Callable[[], Any]) -> Row:
    """Return seconds of one call, and peak memory so far."""
    started = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - started, "peak MB": peak_megabytes()}


def synthesize(num_clips: int, dim: int = 512, num_kinds: int = 40) -> Collection:
    """Generate embeddings of `num_kinds` Gaussian clusters, of the size of real embeddings."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((num_kinds, dim), np.float32)
    rows = centers[rng.integers(num_kinds, size=num_clips)]
    rows += 1.5 * rng.standard_normal(rows.shape, np.float32)
    paths = [f"{number:06d}.wav" for number in range(num_clips)]
    return Collection(Path("synthesized"), paths, np.ones(num_clips), rows)


def measure_page(num_points: int) -> Row:
    """Write a page of the default size; draw it in Chromium if installed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, page = Path(place) / "sounds", Path(place) / "map.html"
        sounds = write_corpus(folder, num_clips=NUM_SOUNDS, seed=0, seconds=(3.0, 6.0))
        collection = synthesize(num_points)
        paths = [str(sounds[number % NUM_SOUNDS]) for number in range(num_points)]
        collection = Collection(folder, paths, np.full(num_points, 3.0), collection.rows)
        seconds = excerpt_seconds(num_points, 30.0)
        started = time.perf_counter()
        starts = [0.0] * num_points
        excerpts = read_excerpts(collection, load().frontend, seconds, starts)
        row: Row = {"excerpt s": seconds, "reading s": time.perf_counter() - started}
        sound_map = draw_map(collection.rows, "pca")
        size = write_map_page(
            collection, sound_map, excerpts, page, title="", colors={}, command=""
        )
        return {**row, "MB": size / 1e6, **draw_often(page, Path(place) / "profile")}


def draw_often(page: Path, profile: Path) -> Row:
    """Return frames per second of the page's drawing, and seconds until it is usable."""
    from tests.browser import Browser, find_chromium

    if find_chromium() is None:
        return {"frames/s": None}
    script = f"""(async () => {{
      const times = [];
      for (let n = 0; n < {NUM_DRAWS}; n++) {{
        const started = performance.now();
        view.zoom = 1 + n / 10;
        draw();
        context.getImageData(0, 0, 1, 1);  // waits until it is drawn
        times.push(performance.now() - started);
      }}
      return times.sort((a, b) => a - b)[{NUM_DRAWS // 2}];
    }})()"""
    with Browser(profile) as browser:
        started = time.perf_counter()
        browser.open(page)
        opened = time.perf_counter() - started
        return {"opens in s": opened, "frames/s": 1000 / browser.run(script)}


if __name__ == "__main__":
    app()
