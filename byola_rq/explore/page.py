"""The map as one self-contained HTML page."""

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from byola_rq.errors import ConfigError
from byola_rq.explore.collection import Collection
from byola_rq.explore.map import PICTURE_BANDS, PICTURE_FRAMES, Excerpt, SoundMap
from byola_rq.plots import style
from byola_rq.runtime.files import replace_file
from byola_rq.text.shown import printable

# Of plots.style.COLOR_MAP in 16 steps, so that a page needs no matplotlib.
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
    """Write the page; nothing on it is loaded from elsewhere.

    Args:
        collection: The clips.
        sound_map: Of them.
        excerpts: Of each clip what is heard and seen.
        page: The file; its folder is made where missing.
        title: For people.
        colors: What clips can be colored by beside their cluster: a name, and of each clip its
            class; empty where it has none.
        command: That makes the page again.
        start: The clip that is chosen as the page opens; none by default.

    Returns:
        The page's size in bytes.

    Raises:
        ConfigError: If it cannot be written.
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
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        replace_file(page, text)
    except OSError as error:
        reason = error.strerror or error
        message = f"{page}: the page cannot be written there ({reason})"
        raise ConfigError(message, code="unwritable", path=page) from error
    return len(text.encode())


def _describe(
    collection: Collection, sound_map: SoundMap, excerpts: Sequence[Excerpt | None]
) -> str:
    methods = {
        "umap": "UMAP: neighbors are near, distances between groups say little",
        "tsne": "t-SNE: neighbors are near, distances between groups say nothing",
        "pca": "PCA: the two directions of largest spread",
        "none": "too few clips for a map",
    }
    silent = sum(each is None for each in excerpts)
    without = f" {silent} clips could not be read and have no excerpt." if silent else ""
    return f"{len(collection)} clips. Places by {methods[sound_map.method]}.{without}"


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
            "seconds": round(float(collection.seconds[clip]), 3),
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


def _describe_excerpt(excerpt: Excerpt | None) -> dict[str, Any] | None:
    if excerpt is None:
        return None
    start = round(excerpt.start_seconds, 2)
    return {"start": start, "sound": excerpt.sound, "picture": excerpt.picture}


def _number(classes: Sequence[str]) -> dict[str, Any]:
    """Names in their order, and of each clip the number of its name, -1 without one."""
    names = sorted(set(classes) - {""})
    number_of = {name: number for number, name in enumerate(names)} | {"": -1}
    return {
        "names": [printable(each) for each in names],
        "of": [number_of[each] for each in classes],
    }


def shorten(paths: Sequence[str]) -> list[str]:
    """Paths below the folder that all share."""
    folders = {os.path.dirname(path) for path in paths}
    shared = os.path.commonpath(folders)
    return [os.path.relpath(path, shared) if shared else path for path in paths]
