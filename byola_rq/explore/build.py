"""The commands `byola-rq search`, `map` and `classify`, from a folder to their output."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from byola_rq.audio.io import inspect_audio, read_audio
from byola_rq.embed.embedder import Embedder
from byola_rq.embed.scaling import FloatArray
from byola_rq.errors import CheckpointError, ConfigError
from byola_rq.explore.classify import Classifier, check_classes, fit_classifier
from byola_rq.explore.collection import Collection, open_collection
from byola_rq.explore.labels import folder_names, read_labels
from byola_rq.explore.map import Method, draw_map, excerpt_seconds, read_excerpts
from byola_rq.explore.page import write_map_page
from byola_rq.explore.search import Findings, find_clips, find_moments
from byola_rq.runtime.files import replace_file
from byola_rq.runtime.outputs import check_output
from byola_rq.runtime.progress import log
from byola_rq.runtime.rng import permutation
from byola_rq.sources.labelled_csv import LabelledClip, read_labelled_rows
from byola_rq.text.cells import csv_text
from byola_rq.text.shown import printable

MAX_EXCERPT_SECONDS = 5.0  # on a page of search results, which has few clips


def search_folder(
    query: Path,
    source: Path,
    embedder: Embedder,
    *,
    k: int,
    frames: bool,
    out: Path | None,
    num_workers: int,
) -> Findings:
    """Find the clips in a folder most similar to a query; embed the folder first if necessary.

    Raises:
        AudioError, CorpusError: If the query or the folder cannot be used.
    """
    wanted = _embed_query(query, embedder, frames=frames)  # errors show before long work
    collection = open_collection(source, embedder, frames=frames, out=out, num_workers=num_workers)
    if not frames:
        return find_clips(wanted, collection, k)
    seconds = float(embedder.frame_seconds(2).diff())
    return find_moments(wanted, collection, k, frame_seconds=seconds)


def _embed_query(query: Path, embedder: Embedder, *, frames: bool) -> Tensor:
    """Embed a query on the CPU: embedding `(D,)`, or frame embeddings `(T', D)`."""
    if not frames:
        return embedder.embed_files([query])[0]
    waveform = read_audio(query, embedder.sample_rate)
    embedder.clips.check_length(len(waveform), query)
    return embedder.frames(waveform, embedder.sample_rate)[0][0].cpu()


def make_found_page(
    query: Path, found: Findings, embedder: Embedder, page: Path, *, frames: bool, command: str
) -> str:
    """Write a page of the query and the clips found; return a line about it.

    Raises:
        ConfigError: If the page cannot be written.
    """
    began = time.monotonic()
    paths = [os.path.abspath(path) for path in [str(query), *(each.path for each in found.clips)]]
    seconds = [_seconds_of(path) for path in paths]
    collection = Collection(page.parent, paths, np.array(seconds), found.rows.numpy())
    starts = [0.0, *(each.second if frames else None for each in found.clips)]
    longest = min(MAX_EXCERPT_SECONDS, seconds[0])
    sound_map = draw_map(found.rows.numpy(), "pca", scaling=found.scaling)
    size = write_map_page(
        collection,
        sound_map,
        read_excerpts(collection, embedder.frontend, longest, starts),
        page,
        title=f"Like {query.name}",
        colors={"folder": folder_names(paths)},
        command=command,
        start=0,
    )
    return _written(page, size, began)


def _seconds_of(path: str) -> float:
    try:
        info = inspect_audio(Path(path))
    except (ValueError, OSError):  # missing, or a member of an archive
        return float("nan")
    return info.num_samples / info.sample_rate


def make_map_page(
    folder: Path,
    page: Path,
    embedder: Embedder,
    *,
    labels: Path | None,
    limit: int,
    method: Method,
    megabytes: float,
    seed: int,
    out: Path | None,
    num_workers: int,
    command: str = "",
) -> str:
    """Write the map of a folder; return a line about it.

    Raises:
        AudioError, ConfigError, CorpusError: If folder, labels or page cannot be used.
        MissingPackageError: If scikit-learn is not installed.
    """
    began = time.monotonic()
    collection = open_collection(folder, embedder, out=out, num_workers=num_workers)
    if len(collection) > limit:
        log(f"{folder}: a random {limit} of {len(collection)} clips; --limit shows more")
        collection = draw_clips(collection, limit, seed)
    colors = {"folder": folder_names(collection.paths)}
    if labels is not None:
        colors = {"label": read_labels(labels, collection.paths), **colors}
    seconds = excerpt_seconds(len(collection), megabytes)
    sound_map = draw_map(collection.rows, method, seed=seed)  # before what takes longer
    starts = [None] * len(collection)
    excerpts = read_excerpts(
        collection, embedder.frontend, seconds, starts, num_workers=num_workers
    )
    size = write_map_page(
        collection,
        sound_map,
        excerpts,
        page,
        title=f"{folder.resolve().name}: {len(collection)} sounds",
        colors=colors,
        command=command,
    )
    return f"{_written(page, size, began)}, excerpts of {seconds:.1f} s"


def draw_clips(collection: Collection, num: int, seed: int) -> Collection:
    """Draw `num` clips of a collection without frames, keeping their order."""
    kept = np.sort(permutation(len(collection), seed=seed, epoch=0)[:num].numpy())
    return replace(
        collection,
        paths=[collection.paths[place] for place in kept],
        seconds=collection.seconds[kept],
        rows=collection.rows[kept],
    )


def _written(page: Path, size: int, began: float) -> str:
    return printable(f"{page} ({size / 1e6:.2f} MB, {time.monotonic() - began:.1f} s)")


def classify_folder(
    given: Path,
    source: Path,
    predictions: Path,
    embedder: Embedder,
    *,
    save: Path | None,
    seed: int,
    out: Path | None,
    num_workers: int,
) -> Iterator[str]:
    """Classify the clips of a folder; yield a line for each result and each output written.

    Raises:
        AudioError, CheckpointError, ConfigError, CorpusError: If labels, classifier, folder or a
            path cannot be used.
        MissingPackageError: If scikit-learn is not installed.
    """
    check_output(predictions, ".csv", "--predictions")
    if save is not None:
        check_output(save, ".safetensors", "--save")
    if os.path.realpath(predictions) == os.path.realpath(given):
        message = f"{predictions}: the predictions would replace the labels"
        raise ConfigError(message, code="exists", path=predictions, key="--predictions")
    classifier: Classifier | None = None
    labeled: Sequence[LabelledClip] = ()
    if given.suffix == ".safetensors":
        classifier = Classifier.load(given)
        classifier.check_model(given, embedder)
        if len(classifier.mean) != embedder.embedding_dim:
            message = f"{given}: its description and its weights do not fit together"
            raise CheckpointError(message, code="damaged", path=given)
    else:
        labeled = read_labelled_rows(
            given, label_columns=("label",), part_columns=(), group_column="group"
        ).clips
        check_classes([clip.label for clip in labeled], given)
    collection = open_collection(source, embedder, out=out, num_workers=num_workers)
    if classifier is None:
        classifier = _fit(labeled, collection, embedder, num_workers=num_workers, seed=seed)
        yield from _describe_fit(classifier, len(labeled))
    probabilities = classifier.predict_proba(collection.rows)
    write_predictions(predictions, collection.paths, classifier.classes, probabilities)
    yield printable(f"{predictions} ({len(collection)} clips, the least certain first)")
    if save is not None:
        classifier.save(save)
        yield printable(f"{save}")


def _fit(
    labeled: Sequence[LabelledClip],
    collection: Collection,
    embedder: Embedder,
    *,
    num_workers: int,
    seed: int,
) -> Classifier:
    """Fit on labeled clips; clips in the collection are not embedded again."""
    place_of = {os.path.realpath(path): place for place, path in enumerate(collection.paths)}
    places = [place_of.get(os.path.realpath(clip.path)) for clip in labeled]
    rows = np.empty((len(labeled), embedder.embedding_dim), np.float32)
    other = [number for number, place in enumerate(places) if place is None]
    if other:
        paths = [labeled[number].path for number in other]
        rows[other] = embedder.embed_files(paths, num_workers=num_workers, progress=True).numpy()
    for number, place in enumerate(places):
        if place is not None:
            rows[number] = collection.rows[place]
    return fit_classifier(
        rows,
        [clip.label for clip in labeled],
        [clip.group or os.path.realpath(clip.path) for clip in labeled],
        np.concatenate([collection.rows, rows[other]]) if other else collection.rows,
        embedder,
        seed=seed,
    )


def _describe_fit(classifier: Classifier, num_labeled: int) -> Iterator[str]:
    yield f"{num_labeled} labeled clips in {len(classifier.classes)} classes"
    if classifier.rare:
        names = printable(", ".join(classifier.rare))
        yield f"not cross-validated, with clips of one source alone: {names}; label more"
    if classifier.expected is None:
        yield "no expected accuracy: that takes two clips of two classes, from two sources each"
        return
    score = classifier.expected
    yield (
        f"expected accuracy {100 * score.accuracy:.1f} % ({100 * score.low:.1f} to "
        f"{100 * score.high:.1f}; {score.num_clips} clips held out, C = {classifier.penalty:g})"
    )


def write_predictions(
    path: Path, clips: Sequence[str], classes: Sequence[str], probabilities: FloatArray
) -> None:
    """Write the two most probable labels of each clip with probabilities, least certain first.

    Its columns are those of a csv of labels, and its paths are whole, so that rows can be moved
    to one, and `map --labels` takes it.

    Raises:
        ConfigError: If the file cannot be written.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    best = np.take_along_axis(probabilities, order, axis=1)
    names = ("file_name", "label", "probability", "second_label", "second_probability")
    rows: list[tuple[str, ...]] = [names]
    for clip in np.argsort(best[:, 0], kind="stable"):
        (first, second), (high, low) = order[clip], best[clip]
        rows.append(
            (
                os.path.abspath(printable(clips[clip])),
                classes[first],
                f"{high:.4f}",
                classes[second],
                f"{low:.4f}",
            )
        )
    try:
        replace_file(path, csv_text(rows))
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror or error})"
        raise ConfigError(message, code="unwritable", path=path) from error
