"""Self-contained HTML page of a map."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from byola_rq.explore.collection import Collection
from byola_rq.explore.labels import shorten
from byola_rq.explore.map import PICTURE_BANDS, PICTURE_FRAMES, Excerpt, SoundMap
from byola_rq.listen.page import save_page
from byola_rq.plots import style
from byola_rq.text.shown import printable

# plots.style.COLOR_MAP in 16 steps, so that a page needs no matplotlib.
_PALETTE = (
    "000004 0b0924 20114b 3b0f70 57157e 721f81 8c2981 a8327d "
    "c43c75 de4968 f1605d fa7f5e fe9f6d febf84 fddea0 fcfdbf"
)


def write_map_page(
    collection: Collection,
    sound_map: SoundMap,
    excerpts: Sequence[Excerpt | None],
    page: Path,
    *,
    title: str,
    colors: Mapping[str, Sequence[str]],
    command: str,
    start: int = -1,
) -> int:
    """Write the page as one file that loads nothing from elsewhere.

    Args:
        collection: Clips of the map.
        sound_map: Map of the clips.
        excerpts: Excerpt of each clip, or None.
        page: File to write; its folder is created if missing.
        title: Title of the page.
        colors: Classes to color clips by besides their cluster: by name, the class of each clip,
            empty for none.
        command: Command that reproduces the page, printed on it.
        start: Index of the clip selected when the page opens; -1 for none.

    Returns:
        Size of the page in bytes.

    Raises:
        ConfigError: If the page cannot be written.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (files("byola_rq.explore") / "map.html").read_text(encoding="utf-8")
    )
    text = template.render(
        title=printable(title),
        about=_describe(collection, sound_map, excerpts),
        command=printable(command),
        picture=(PICTURE_FRAMES, PICTURE_BANDS),
        style=style,
        data=_describe_data(collection, sound_map, excerpts, colors, start),
    )
    return save_page(page, text)


def _describe(
    collection: Collection, sound_map: SoundMap, excerpts: Sequence[Excerpt | None]
) -> str:
    methods = {
        "umap": "UMAP: similar clips are near each other, distances between groups mean little",
        "tsne": "t-SNE: similar clips are near each other, distances between groups mean nothing",
        "pca": "PCA: the two directions of largest variance",
    }
    places = "In a row: too few different clips for a map."
    if sound_map.method in methods:
        places = f"Places by {methods[sound_map.method]}."
    silent = sum(each is None for each in excerpts)
    without = f" {silent} clips could not be read and have no excerpt." if silent else ""
    return f"{len(collection)} clips. {places}{without}"


def _describe_data(
    collection: Collection,
    sound_map: SoundMap,
    excerpts: Sequence[Excerpt | None],
    colors: Mapping[str, Sequence[str]],
    start: int,
) -> dict[str, Any]:
    names = [printable(each) for each in shorten(collection.paths)]
    clips = [
        {
            "name": names[clip],
            "x": round(float(sound_map.places[clip, 0]), 5),
            "y": round(float(sound_map.places[clip, 1]), 5),
            "seconds": _finite(collection.seconds[clip]),
            "near": [
                [int(other), round(float(cosine), 4)]
                for other, cosine in zip(
                    sound_map.neighbors[clip], sound_map.similarities[clip], strict=True
                )
            ],
            "excerpt": _describe_excerpt(excerpts[clip]),
        }
        for clip in range(len(collection))
    ]
    clusters = [f"{int(each) + 1}" for each in sound_map.clusters]
    numbers = [str(number + 1) for number in range(len(sound_map.centers))]
    return {
        "clips": clips,
        "centers": [int(each) for each in sound_map.centers],
        "colors": {name: _number(classes) for name, classes in colors.items() if any(classes)}
        | {"cluster": {"names": numbers, "of": [numbers.index(each) for each in clusters]}},
        "color_by": [*(name for name, classes in colors.items() if any(classes)), "cluster"],
        "picture": (PICTURE_FRAMES, PICTURE_BANDS),
        "palette": _PALETTE.split(),
        "start": start,
    }


def _finite(seconds: float) -> float | None:
    return round(float(seconds), 3) if np.isfinite(seconds) else None  # JSON has no NaN


def _describe_excerpt(excerpt: Excerpt | None) -> dict[str, Any] | None:
    if excerpt is None:
        return None
    start = round(excerpt.start_seconds, 2)
    return {"start": start, "sound": excerpt.sound, "picture": excerpt.picture}


def _number(classes: Sequence[str]) -> dict[str, Any]:
    """Return the sorted names, and the number of each clip's name, -1 for none."""
    names = sorted(set(classes) - {""})
    number_of = {name: number for number, name in enumerate(names)} | {"": -1}
    return {
        "names": [printable(each) for each in names],
        "of": [number_of[each] for each in classes],
    }
