"""Draw docs/map.png: the map of 600 synthesized sounds, in Chromium; `python docs/draw_map.py`."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from byola_rq.embed.embedder import load  # noqa: E402
from byola_rq.explore.build import make_map_page  # noqa: E402
from byola_rq.synthesis.generate import write_corpus  # noqa: E402
from tests.browser import Browser  # noqa: E402

with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
    sounds, page, labels = (Path(place) / name for name in ("sounds", "map.html", "labels.csv"))
    paths = write_corpus(sounds, num_clips=600, seed=3, seconds=(2.0, 4.0))
    rows = [f"{path},{path.stem.split('_', 1)[1].split('-')[0]}" for path in paths]
    labels.write_text("\n".join(["file_name,label", *rows]), encoding="utf-8")
    options = {"limit": 600, "method": "tsne", "megabytes": 30.0, "seed": 0, "num_workers": 2}
    make_map_page(sounds, page, load(), labels=labels, out=Path(place) / "rows", **options)
    with Browser(Path(place) / "profile") as browser:
        browser.open(page, width=1100, height=720)
        browser.run("choose(4, false)")
        browser.run("new Promise(done => setTimeout(done, 500))")
        browser.screenshot(ROOT / "docs" / "map.png")
