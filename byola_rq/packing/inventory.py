"""Summary of a packed corpus as text, and a histogram of its clips' lengths."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.corpus.packed_format import open_packed
from byola_rq.errors import ConfigError, CorpusError
from byola_rq.text.cells import csv_rows
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text

_MOST = 10  # rows of a table
_STEPS = (1, 2, 5, 10, 20, 30, 60, 300, 600, 1800)  # seconds
_BARS = 60
_WIDE = 20  # ratio from which a scale is logarithmic
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def describe_corpus(folder: Path) -> Iterator[str]:
    """Summarize a packed corpus: counts, hours, lengths, rates, labels and rejected clips.

    Yields:
        Lines of text.

    Raises:
        CorpusError: If there is none, or its files are inconsistent.
    """
    corpus = open_packed(folder)
    info = corpus.info
    num_bytes = sum(each["bytes"] for each in info["files"].values())
    yield f"clips       {info['clips']}"
    yield f"hours       {info['hours']:.2f}"
    yield f"size        {num_bytes / 1e9:.3f} GB in {info['shards']} shards (int16, 16 kHz, mono)"
    yield f"rejected    {info['rejected']}"
    yield f"duplicates  {info['duplicates']}"
    if len(corpus):
        yield from _describe_lengths(corpus.num_samples / SAMPLE_RATE)
    rates = Counter(f"{rate} Hz" for rate in corpus.read_column("original_rate"))
    yield from _table("original rates", rates)
    texts = filter(None, corpus.read_column("labels"))
    labels = Counter(label.strip() for text in texts for label in text.split(",") if label.strip())
    yield from _table("labels", labels)
    yield from _table("left out", count_reasons(folder))


def count_reasons(folder: Path) -> Counter[str]:
    """Count rejected clips by reason; reasons that differ only in numbers are merged."""
    groups: dict[str, tuple[int, list[str]]] = {}
    for row in _read_rejected(folder / "rejected.csv"):
        reason = re.sub(r"^same clip as .*", "same clip as another", row[1], flags=re.S)
        parts = _NUMBER.split(reason)  # alternating text and numbers
        key = "0".join(parts[::2])
        count, common = groups.get(key, (0, parts))
        merged = [a if a == b else "..." for a, b in zip(common, parts, strict=True)]
        groups[key] = count + 1, merged
    return Counter({"".join(parts): count for count, parts in groups.values()})


def _read_rejected(path: Path) -> list[list[str]]:
    """Read rows (source, reason)."""
    try:
        header, *rows = csv_rows(read_text(path, MAX_TEXT_BYTES)) or [[]]
        if header != ["source", "reason"] or any(len(row) != 2 for row in rows):
            raise ValueError("its columns must be source and reason")
        return rows
    except (OSError, ValueError) as error:
        message = f"{path}: not the rejects of a corpus ({error})"
        raise CorpusError(message, code="malformed", path=path) from error


def draw_lengths(folder: Path, picture: Path) -> None:
    """Draw a histogram of the clips' lengths.

    Raises:
        CorpusError: As `open_packed`.
        ConfigError: If the picture cannot be written.
        MissingPackageError: If matplotlib is not installed.
    """
    # Imported here because it imports torch, which the text does not need.
    from byola_rq.plots.style import COLORS, make_figure, plain, save_figure

    figure = make_figure(8, 4)
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    corpus = open_packed(folder)
    seconds = corpus.num_samples / SAMPLE_RATE
    if not len(seconds):
        message = f"{folder}: it has no clips; there are no lengths to draw"
        raise ConfigError(message, code="empty", path=folder)
    is_wide = seconds.max() > _WIDE * seconds.min()
    axes = figure.subplots()
    counts, edges = np.histogram(seconds, _bins(seconds, is_wide=is_wide))
    axes.stairs(counts, edges, fill=True, color=COLORS[0])
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    # If most clips have one length, one bar would dwarf all others.
    if counts.max() > _WIDE * np.median(counts[counts > 0]):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)  # a bar of one clip stays visible
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("length (s)")
    axes.set_ylabel("clips")
    axes.spines[["top", "right"]].set_visible(False)
    hours = corpus.info["hours"]
    axes.set_title(
        f"{plain(folder.resolve().name)}: {len(seconds):,} clips, {hours:,.1f} hours", fontsize=11
    )
    save_figure(figure, picture)


def _describe_lengths(seconds: npt.NDArray[np.float64]) -> Iterator[str]:
    places = {"shortest": 0, "5 %": 5, "median": 50, "95 %": 95, "longest": 100}
    values = np.percentile(seconds, list(places.values()))
    texts = (f"{name} {value:.2f}" for name, value in zip(places, values, strict=True))
    yield f"seconds     {', '.join(texts)}"
    yield ""
    yield "lengths"
    counts = np.histogram(seconds, [0, *_STEPS, np.inf])[0]
    names = [f"under {_STEPS[0]} s"]
    names += [f"{low} to {high} s" for low, high in itertools.pairwise(_STEPS)]
    names += [f"{_STEPS[-1]} s and longer"]
    for name, count in zip(names, counts.tolist(), strict=True):
        if count:
            bar = "#" * math.ceil(40 * count / counts.max())
            yield f"{count:>10}  {name:<17}  {bar}"


def _bins(seconds: npt.NDArray[np.float64], *, is_wide: bool) -> npt.NDArray[np.float64]:
    low, high = float(seconds.min()), float(seconds.max())
    if is_wide:
        return np.geomspace(low, high, _BARS + 1)
    # From 0 if that is near; equal lengths still need a width.
    low = 0.0 if low < high / 3 else low
    margin = 0.02 * high if high - low < 0.02 * high else 0.0
    return np.linspace(low - margin, high + margin, _BARS + 1)


def _table(title: str, counts: Counter[str]) -> Iterator[str]:
    """List the most frequent names in descending order, ties by name."""
    if not counts:
        return
    yield ""
    yield title if len(counts) <= _MOST else f"{title} ({len(counts)} different; the {_MOST} most)"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for name, count in ranked[:_MOST]:
        yield f"{count:>10}  {name}"
