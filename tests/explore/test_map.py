"""The map: places, neighbors and clusters; excerpts of a bounded size; labels; few clips."""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import ConfigError, CorpusError
from byola_rq.explore.build import make_map_page
from byola_rq.explore.labels import folder_names, read_labels
from byola_rq.explore.map import (
    PICTURE_BANDS,
    PICTURE_FRAMES,
    choose_method,
    draw_map,
    excerpt_seconds,
    read_excerpts,
)
from byola_rq.explore.page import shorten
from byola_rq.explore.search import find_clips
from tests.browser import Browser
from tests.explore.test_search import collection_of, run
from tests.refusal import refused

RATE = 16_000


@pytest.fixture(scope="module")
def model() -> Embedder:
    return load()


def data_of(page: Path) -> dict[str, object]:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*)</script>', page.read_text()
    )
    return json.loads(text)


def test_neighbors_are_what_a_search_finds() -> None:
    import torch

    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    made = draw_map(rows, "pca")
    assert made.places.shape == (50, 2)
    assert made.places.min() >= 0
    assert made.places.max() <= 1
    for row in (0, 17, 49):
        found = find_clips(torch.from_numpy(rows[row]), collection_of(rows), 9).clips[1:]
        assert [f"{place}.wav" for place in made.neighbors[row]] == [each.path for each in found]
        np.testing.assert_allclose(
            made.similarities[row], [each.similarity for each in found], atol=1e-5
        )


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_two_groups_stay_apart(method: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, 8)) + np.repeat([[-9.0], [9.0]], 20, axis=0)
    made = draw_map(rows.astype(np.float32), method)
    middles = made.places[:20].mean(axis=0), made.places[20:].mean(axis=0)
    distances = [np.linalg.norm(made.places - middle, axis=1) for middle in middles]
    assert ((distances[0] < distances[1]) == (np.arange(40) < 20)).all()
    for cluster, center in enumerate(made.centers):
        assert made.clusters[center] == cluster
    assert not set(made.clusters[:20]) & set(made.clusters[20:])


@pytest.mark.parametrize("num", [1, 2, 3, 9])
def test_few_clips_have_a_map(num: int) -> None:
    made = draw_map(np.random.default_rng(0).standard_normal((num, 4)).astype(np.float32))
    assert np.isfinite(made.places).all()
    assert len(np.unique(made.places, axis=0)) == num  # each can be reached
    assert made.neighbors.shape == (num, min(8, num - 1))
    assert made.method == choose_method("auto", num)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.3])  # silence alone has zeros behind the ReLU
def test_clips_that_are_all_the_same_have_a_map(value: float) -> None:
    """Equal up to the rounding of batches of other sizes: similarity 1, and one cluster."""
    rows = np.full((12, 4), [value, 1, 2, 3]) * (1 + 1e-7 * np.arange(12)[:, None])
    made = draw_map(rows.astype(np.float32), "tsne")
    assert made.method == "none"
    assert len(np.unique(made.places, axis=0)) == 12
    assert len(made.centers) == 1
    np.testing.assert_allclose(made.similarities, 1, atol=1e-6)


def test_the_page_keeps_to_its_size(sounds: Path, tmp_path: Path, model: Embedder) -> None:
    """Clips of 3 s are louder in their second half, where excerpts begin."""
    folder, page = tmp_path / "sounds", tmp_path / "deep" / "map.html"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        waveform = 0.01 * rng.standard_normal(3 * RATE)
        waveform[2 * RATE :] *= 20
        soundfile.write(folder / f"{number}.wav", waveform, RATE)
    made = {"labels": None, "limit": 8, "method": "auto", "seed": 0, "num_workers": 1}
    make_map_page(folder, page, model, megabytes=0.05, out=tmp_path / "rows", **made)
    data = data_of(page)
    clips = data["clips"]
    assert len(clips) == 8
    assert page.stat().st_size < 0.05e6 + 40_000  # and the page without clips
    seconds = excerpt_seconds(8, 0.05)
    assert 0 < seconds < 3
    for clip in clips:
        waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(clip["excerpt"]["sound"])))
        assert len(waveform) / rate == pytest.approx(seconds, abs=0.01)
        assert clip["excerpt"]["start"] > 1
        picture = base64.b64decode(clip["excerpt"]["picture"])
        assert len(picture) == PICTURE_BANDS * PICTURE_FRAMES / 2
    with refused(ConfigError, "too-large", key="--megabytes", value=1):
        excerpt_seconds(10**6, 1)
    with refused(ConfigError, "unwritable", folder / "1.wav" / "map.html"):
        page = folder / "1.wav" / "map.html"
        made["limit"] = 1
        make_map_page(folder, page, model, megabytes=1, out=tmp_path / "rows", **made)


def test_a_clip_that_is_gone_has_no_excerpt(sounds: Path, model: Embedder) -> None:
    paths = [str(sorted(sounds.glob("*.wav"))[0]), "/nowhere/a.wav"]
    collection = collection_of(np.eye(2, dtype=np.float32))
    object.__setattr__(collection, "paths", paths)
    excerpts = read_excerpts(collection, model.frontend, 0.5, [None, None])
    assert excerpts[0] is not None
    assert excerpts[1] is None


def test_folders_and_labels(tmp_path: Path) -> None:
    paths = ["/a/b/1.wav", "/a/b/c/2.wav", "/a/d/3.wav"]
    assert folder_names(paths) == ["b", "b/c", "d"]
    assert folder_names(["/a/b/1.wav", "/a/b/2.wav"]) == ["", ""]
    here = os.path.relpath(tmp_path)
    assert folder_names([f"{here}/a/1.wav", f"{tmp_path}/b/2.wav"]) == ["a", "b"]
    assert shorten([f"{here}/a/1.wav", f"{tmp_path}/b/2.wav"]) == ["a/1.wav", "b/2.wav"]
    for name in ("x.wav", "y.wav"):
        soundfile.write(tmp_path / name, np.zeros(RATE), RATE)
    labels = tmp_path / "labels.csv"
    labels.write_text("file_name,label\nx.wav,cat\n")
    assert read_labels(labels, [str(tmp_path / "x.wav"), str(tmp_path / "y.wav")]) == ["cat", ""]
    labels.write_text("file_name;label\nx.wav;cat, or dog\n")
    assert read_labels(labels, [str(tmp_path / "x.wav")]) == ["cat, or dog"]
    with refused(CorpusError, "different", labels):
        read_labels(labels, [str(tmp_path / "y.wav")])


def test_names_that_are_not_utf_8(sounds: Path, tmp_path: Path, model: Embedder) -> None:
    folder, labels, page = tmp_path / "s", tmp_path / "l.csv", tmp_path / "map.html"
    folder.mkdir()
    for name, sound in zip(("\udce9.wav", "a.wav"), sorted(sounds.glob("*.wav")), strict=False):
        (folder / name).write_bytes(sound.read_bytes())
    labels.write_bytes(b"file_name,label\ns/\xe9.wav,cat\ns/a.wav,dog\n")
    made = {"limit": 8, "method": "pca", "megabytes": 1, "seed": 0, "num_workers": 1}
    make_map_page(folder, page, model, labels=labels, out=tmp_path / "rows", **made)
    clips = data_of(page)["clips"]
    assert len(clips) == 2
    assert all(clip["excerpt"] for clip in clips)
    assert "cat" in page.read_text()


def test_the_command(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hostile = tmp_path / "<b>x"
    hostile.mkdir()
    for path in sorted(sounds.glob("*.wav"))[:4]:
        (hostile / path.name).write_bytes(path.read_bytes())
    page = tmp_path / "map.html"
    assert run("map", hostile, "-o", page) == 0
    assert len(data_of(page)["clips"]) == 4
    assert "<b>x" not in page.read_text()
    found = tmp_path / "found.html"
    monkeypatch.chdir(hostile)  # a query by its name, clips by their whole paths
    query = sorted(path.name for path in hostile.iterdir())[0]
    assert run("search", query, hostile, "-k", 3, "--html", found) == 0
    data = data_of(found)
    assert data["start"] == 0
    assert len(data["clips"]) == 4
    assert data["clips"][0]["near"][0] == [1, 1.0]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("map", empty, "-o", page) == CorpusError.exit_code
    before = Path(query).read_bytes()  # a slip that would replace a recording
    assert run("map", hostile, "-o", query) == ConfigError.exit_code
    assert run("search", query, hostile, "--html", query) == ConfigError.exit_code
    assert Path(query).read_bytes() == before


PLAYING = """(async () => {
  await new Promise(done => setTimeout(done, 200));
  return !at("player").paused && at("player").duration;
})()"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_browser(
    browser: Browser, sounds: Path, tmp_path: Path, model: Embedder, width: int, dark: bool
) -> None:
    labels = tmp_path / "labels.csv"
    rows = [f"{path},{path.stem.split('_')[1].split('-')[0]}" for path in sounds.glob("*.wav")]
    labels.write_text("\n".join(["file_name,label", *rows]))
    page = tmp_path / "map.html"
    options = {"labels": labels, "limit": 99, "method": "pca", "megabytes": 30, "seed": 0}
    make_map_page(sounds, page, model, out=tmp_path / "rows", num_workers=1, **options)
    browser.open(page, width=width, dark=dark)
    clips = data_of(page)["clips"]
    assert browser.run("[...at('color').options].map(each => each.value)") == ["label", "cluster"]
    drawn = """(() => {
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, n) => n % 4 === 3 && value > 0).length;
    })()"""
    assert browser.run(f"(draw(), {drawn})") > 10 * len(clips)  # pixels
    # A click on a clip chooses and plays it.
    click = """(type => {
      const [x, y] = place(3), box = canvas.getBoundingClientRect();
      const options = { clientX: box.x + x, clientY: box.y + y, bubbles: true, pointerId: 1 };
      canvas.dispatchEvent(new PointerEvent(type, options));
    })"""
    browser.run("canvas.setPointerCapture = () => {}")  # there is no pointer to capture
    browser.run(f"{click}('pointerdown')")
    browser.run(f"{click}('pointerup')")
    assert browser.run("chosen") == 3
    assert browser.run("at('name').textContent") == clips[3]["name"]
    near = browser.run("[...at('neighbors').querySelectorAll('button')].map(b => b.textContent)")
    assert near == [f"{clips[n]['name']}{cosine:.2f}" for n, cosine in clips[3]["near"]]
    assert browser.run("at('picture').getContext('2d').getImageData(9, 9, 1, 1).data[3]") == 255
    browser.press("Enter")  # a key is a gesture, after which a page may play
    assert browser.run(PLAYING) == pytest.approx(min(3.0, clips[3]["seconds"]), abs=0.05)
    # Search, color and keys.
    browser.run("at('search').value = 'voice', find()")
    num_voices = sum("voice" in row for row in rows)
    assert browser.run("at('found').children.length") == num_voices
    browser.press("Escape")
    assert browser.run("[chosen, at('found-part').hidden]") == [-1, True]
    browser.press("ArrowRight")
    browser.press("+")
    assert browser.run("chosen") >= 0
    assert browser.run("view.zoom") > 1
    browser.press("0")
    assert browser.run("view.zoom") == 1
    browser.run("at('color').value = 'cluster', recolor()")
    assert browser.run("at('legend').children.length") == len(data_of(page)["centers"])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
